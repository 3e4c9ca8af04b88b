# Everything of the seed goes, except its busybox: what stays is what the newest package of each name has.
mkdir -p /etc
(cd "${REPO}" && sha256sum *.tar.bz2) >/etc/bootstrap-packages
for package in $(ls "${REPO}" | sed 's/_[0-9]*\.tar\.bz2$//' | sort -u); do
	newest=$(($(revision_of "${package}") - 1))
	bzip2 -dc "${REPO}/${package}_${newest}.tar.bz2" | tar -tf -
done | sed 's,^\./,/,' | sort -u >/tmp/own
for top in /*; do
	case "${top}" in
	/dev | /external | /proc | /steps | /sys | /tmp) ;;
	*) find "${top}" -xdev ! -type d ! -path /etc/bootstrap-packages ;;
	esac
done | sort >/tmp/all
grep -vxFf /tmp/own /tmp/all | while read -r file; do
	# The names of busybox lead to it, and some directories are links.
	case "$(readlink -f "${file}")" in
	"${PREFIX}/bin/busybox") ;;
	*) [ -d "${file}" ] || echo "${file}" ;;
	esac
done >/tmp/seed
# `busybox` itself runs all of this, whatever is gone.
busybox xargs busybox rm -f </tmp/seed
for dir in $(busybox find /etc /usr /var -xdev -depth -type d); do
	busybox rmdir "${dir}" 2>/dev/null || true
done
busybox find / -xdev -type l ! -path '/proc/*' | while read -r link; do
	[ -e "${link}" ] || busybox rm "${link}"
done
for applet in $(busybox --list); do
	[ -e "${PREFIX}/bin/${applet}" ] || busybox ln -s busybox "${PREFIX}/bin/${applet}"
done
for package in $(sed 's/_[0-9]*\.tar\.bz2$//; s/.* //' /etc/bootstrap-packages); do
	rm -rf "${SRCDIR:?}/${package}"
done
if find / -xdev -name 'ld-linux*' -o -xdev -name 'libc.so*' | grep .; then
	echo "this is of the libc of the seed"
	exit 1
fi
rm -rf "${REPO}" /tmp/own /tmp/all /tmp/seed
