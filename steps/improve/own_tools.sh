# From here on the programs that were built are used, and none of the seed of the same names.
for tool in bzip2 cc cmp diff gzip m4 make patch tcc; do
	if [ "${PROFILE}" = small ] && [ "${tool%m4}" != "${tool}" ]; then
		continue
	fi
	case "$(readlink -f "$(command -v "${tool}")")" in
	*/busybox)
		echo "${tool} is still that of the seed"
		exit 1
		;;
	esac
done
tcc -v | grep -q '^tcc version'
