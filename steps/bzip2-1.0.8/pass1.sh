src_configure() {
	:
}

src_compile() {
	make CC="${CC}" AR="${AR}" RANLIB="${RANLIB}" CFLAGS=-D_FILE_OFFSET_BITS=64 bzip2 bzip2recover
}

src_install() {
	mkdir -p "${DESTDIR}${PREFIX}/bin"
	cp bzip2 bzip2recover "${DESTDIR}${PREFIX}/bin/"
	ln -s bzip2 "${DESTDIR}${PREFIX}/bin/bunzip2"
	ln -s bzip2 "${DESTDIR}${PREFIX}/bin/bzcat"
}
