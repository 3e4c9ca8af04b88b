# The library that programs of flex are linked with needs a function of theirs, which no shared library may do here.
src_configure() {
	CC_FOR_BUILD="${CC}" default_configure --disable-shared
}

src_compile() {
	make ${MAKEJOBS} -C src
}

src_install() {
	make -C src install DESTDIR="${DESTDIR}"
}
