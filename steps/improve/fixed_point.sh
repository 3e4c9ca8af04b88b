# The compiler that the compiler made of itself, and the one that this one made: they have to be the same.
(cd "${REPO}" && cmp tcc-0.9.27_1.tar.bz2 tcc-0.9.27_2.tar.bz2)
