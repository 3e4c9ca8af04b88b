# What steps are made of. `build` unpacks the first file of `sources`, patches it, and runs the stages, each of which a step may
# define for itself; what lands in DESTDIR becomes a package, has to have the digest of SHA256SUMS.pkgs, and is laid over the root.
umask 022
set -o pipefail

# The shell of the seed has programs of its own that it prefers to those of the same name in PATH; of these it takes those in PATH.
# One by one, since a step gets the variables whose names stand in its texts, and all of them where names are put together.
bzip2() { "${PREFIX}/bin/bzip2" "$@"; }
cmp() { "${PREFIX}/bin/cmp" "$@"; }
find() { "${PREFIX}/bin/find" "$@"; }
gzip() { "${PREFIX}/bin/gzip" "$@"; }
m4() { "${PREFIX}/bin/m4" "$@"; }
make() { "${PREFIX}/bin/make" "$@"; }
patch() { "${PREFIX}/bin/patch" "$@"; }
tar() { "${PREFIX}/bin/tar" "$@"; }

# How many packages there are already whose names begin like this one.
revision_of() {
	ls "${REPO}" | grep -c "^$1" || true
}

default_configure() {
	./configure --prefix="${PREFIX}" --disable-dependency-tracking --disable-nls "$@"
}

default_compile() {
	make ${MAKEJOBS}
}

default_install() {
	make install DESTDIR="${DESTDIR}"
}

# A stage of the step, or else the default one.
stage() {
	if type "src_$1" >/dev/null 2>&1; then
		"src_$1"
	else
		"default_$1"
	fi
}

unpack() {
	case "$1" in
	*.tar.gz) gzip -dc "$1" | tar -xf - ;;
	*.tar.xz) xz -dc "$1" | tar -xf - ;;
	*.tar.bz2) bzip2 -dc "$1" | tar -xf - ;;
	esac
}

# Into the working directory; an archive with one directory at its top is entered.
default_unpack() {
	while read -r _ url sum name; do
		file="${DISTFILES}/${name:-${url##*/}}"
		echo "${sum}  ${file}" | sha256sum -c
		unpack "${file}"
	done <"${SRCDIR}/${pkg}/sources"
	if [ "$(ls | wc -l)" = 1 ]; then
		cd ./*/
	fi
}

# The patches of the step, or those for this pass alone.
default_patch() {
	patches="${SRCDIR}/${pkg}/patches"
	if [ -d "${patches}-pass${pass}" ]; then
		patches="${patches}-pass${pass}"
	fi
	for file in "${patches}"/*.patch; do
		if [ -e "${file}" ]; then
			patch -p1 <"${file}"
		fi
	done
}

default_prepare() {
	:
}

# build PACKAGE SCRIPT
build() {
	pkg=$1
	pass=${2#pass}
	pass=${pass%.sh}
	revision=$(revision_of "${pkg}")
	cd "${SRCDIR}/${pkg}"
	rm -rf build "${DESTDIR}"
	mkdir -p build "${DESTDIR}"
	if [ -e "$2" ]; then
		. "./$2"
	fi
	cd build
	for one in unpack patch prepare configure compile install; do
		stage "${one}"
	done
	rm -rf "${DESTDIR}${PREFIX}/share"
	pack "${pkg}_${revision}.tar.bz2"
	tar -C / --keep-directory-symlink -xf "${REPO}/${pkg}_${revision}.tar"
	rm "${REPO}/${pkg}_${revision}.tar"
	cd "${SRCDIR}"
	rm -rf "${pkg}/build" "${DESTDIR}"
}

# Packs DESTDIR as a file that is the same whenever and wherever it is made.
pack() {
	tar -C "${DESTDIR}" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw \
		--format=ustar -cf "${REPO}/${1%.bz2}" .
	bzip2 -9 -k "${REPO}/${1%.bz2}"
	cd "${REPO}"
	sha256sum "$1"
	if [ "${UPDATE_CHECKSUMS}" != True ]; then
		if ! grep " $1\$" "${SRCDIR}/SHA256SUMS.pkgs" >/tmp/pin; then
			echo "SHA256SUMS.pkgs has no digest for $1"
			exit 1
		fi
		sha256sum -c /tmp/pin
		rm /tmp/pin
	fi
}

# uninstall PACKAGE|FILE...: what is still as the newest package of that name has it is removed.
uninstall() {
	for one in "$@"; do
		case "${one}" in
		/*) rm -f "${one}" ;;
		*)
			newest=$(($(revision_of "${one}") - 1))
			mkdir -p /tmp/removed
			bzip2 -dc "${REPO}/${one}_${newest}.tar.bz2" | tar -C /tmp/removed -xf -
			(cd /tmp/removed && find . ! -type d) | while read -r file; do
				if cmp -s "/tmp/removed/${file}" "/${file}"; then
					rm -f "/${file}"
				fi
			done
			rm -rf /tmp/removed
			;;
		esac
	done
}
