# From here on the programs that were built are used, and none of the seed of the same names.
for tool in bzip2 patch diff; do
	if [ -e "${PREFIX}/bin/${tool}" ]; then
		"${PREFIX}/bin/${tool}" --version </dev/null >/dev/null 2>&1
		if [ "$(readlink -f "${PREFIX}/bin/${tool}")" = "${PREFIX}/bin/busybox" ]; then
			echo "${tool} is still that of the seed"
			exit 1
		fi
	fi
done
