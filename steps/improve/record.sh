# What was built, for whoever looks at the result.
mkdir -p /etc
(cd "${REPO}" && sha256sum ./*.tar.bz2) >/etc/bootstrap-packages
