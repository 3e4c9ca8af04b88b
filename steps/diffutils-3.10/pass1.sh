# Without the manual pages, which Perl would write anew since a source has changed.
src_compile() {
	make ${MAKEJOBS} SUBDIRS='lib src'
}

src_install() {
	make install SUBDIRS='lib src' DESTDIR="${DESTDIR}"
}
