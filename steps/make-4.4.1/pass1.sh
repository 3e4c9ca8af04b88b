# The archive comes without the manual.
src_configure() {
	mkdir doc
	: >doc/Makefile.in
	default_configure
}

src_compile() {
	make ${MAKEJOBS} -C lib
	make ${MAKEJOBS} make
}

src_install() {
	mkdir -p "${DESTDIR}${PREFIX}/bin"
	cp make "${DESTDIR}${PREFIX}/bin/"
}
