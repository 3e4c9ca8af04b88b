# Three times: by the compiler of the seed, by itself, and once more to see that nothing changes.

src_configure() {
	./configure --cc=tcc --prefix="${PREFIX}" --config-musl --config-bcheck=no
}

src_compile() {
	tcc -static -I. -o tcc tcc.c \
		-DONE_SOURCE=1 -DTCC_TARGET_X86_64 -DTCC_MUSL -DCONFIG_TCC_STATIC \
		-DCONFIG_TRIPLET='"x86_64-linux-musl"' \
		-DCONFIG_TCC_ELFINTERP='"/lib/ld-musl-x86_64.so.1"' \
		-DCONFIG_TCC_SYSINCLUDEPATHS='"/usr/include"' \
		-DCONFIG_TCC_LIBPATHS='"/usr/lib"' \
		-DCONFIG_TCC_CRTPREFIX='"/usr/lib"'
	for source in libtcc1.c alloca86_64.S va_list.c dsohandle.c; do
		./tcc -I. -c "lib/${source}" -o "${source%.*}.o"
	done
	./tcc -ar rc libtcc1.a libtcc1.o alloca86_64.o va_list.o dsohandle.o
}

src_install() {
	mkdir -p "${DESTDIR}${PREFIX}/bin" "${DESTDIR}${PREFIX}/lib/tcc"
	cp tcc "${DESTDIR}${PREFIX}/bin/"
	cp libtcc1.a "${DESTDIR}${PREFIX}/lib/tcc/"
	# What makefiles and other sources ask for.
	ln -s tcc "${DESTDIR}${PREFIX}/bin/cc"
}
