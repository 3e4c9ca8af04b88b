let version = null; in "v${version}"
