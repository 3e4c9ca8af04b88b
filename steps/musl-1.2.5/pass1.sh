# Twice: by the compiler of the seed, and by the one that was built with the result.

# The compiler has no complex numbers, and its assembler does not know what these use: the same functions in C take their place.
src_prepare() {
	rm -r src/complex src/math/x86_64 src/fenv/x86_64
	rm include/complex.h include/tgmath.h
}

src_configure() {
	./configure --prefix="${PREFIX}" --target=x86_64 --disable-shared --disable-gcc-wrapper CFLAGS=-O2
}

# `ar` of the compiler makes no archive of nothing, and libm and others are that.
src_compile() {
	make ${MAKEJOBS} EMPTY_LIB_NAMES=
	if [ "${pass}" = 1 ]; then
		# An archive of the seed would lack the weak symbols. One object has them, and is enough to link the next compiler.
		rm lib/libc.a
		tcc -nostdlib -r -o lib/libc.a $(find obj/src -name '*.o' | sort)
	fi
}

src_install() {
	make install DESTDIR="${DESTDIR}" EMPTY_LIB_NAMES=
	for name in m rt pthread crypt util xnet resolv dl; do
		printf '!<arch>\n' >"${DESTDIR}${PREFIX}/lib/lib${name}.a"
	done
	if [ "${pass}" = 1 ]; then
		# Where the compiler of the seed looks for them.
		mkdir "${DESTDIR}${PREFIX}/lib/x86_64-linux-gnu"
		for name in crt1 crti crtn; do
			ln -s "../${name}.o" "${DESTDIR}${PREFIX}/lib/x86_64-linux-gnu/${name}.o"
		done
	fi
}
