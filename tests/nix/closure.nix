# Programs of a Debian root filesystem, at another place than where they look for each other, make a package and take it apart.
{ tree }:
let
  debian = builtins.path { path = /. + tree; name = "debian"; };
  system = "x86_64-linux";
  busybox = "${debian}/usr/bin/busybox";
  loader = "${debian}/usr/lib64/ld-linux-x86-64.so.2";
  libraries = "${debian}/usr/lib/x86_64-linux-gnu";
  # The first program is loaded by hand.
  wrapped = derivation {
    name = "wrapped";
    inherit system debian busybox loader libraries;
    builder = loader;
    args = [
      "--library-path"
      libraries
      "${debian}/usr/bin/dash"
      "-euc"
      ''
        $busybox mkdir -p $out/bin
        for name in dash tar dpkg-deb dpkg-query; do
          printf '#!%s sh\nexec %s --library-path %s %s/usr/bin/%s "$@"\n' $busybox $loader $libraries $debian $name > $out/bin/$name
          $busybox chmod +x $out/bin/$name
        done
        for name in cat chmod cp echo find ln ls mkdir rm sed sh sort stat touch; do
          $busybox ln -s $busybox $out/bin/$name
        done
      ''
    ];
  };
  build = name: script: more: derivation ({
    inherit name system;
    builder = "${wrapped}/bin/dash";
    args = [ "-euc" "export PATH=${wrapped}/bin\n${script}" ];
    SOURCE_DATE_EPOCH = "1700000000";
  } // more);
in
rec {
  package = build "hello.deb" ''
    mkdir -p p/DEBIAN p/usr/bin
    printf 'Package: hello\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\nDescription: says hello\n' > p/DEBIAN/control
    printf '#!/bin/sh\necho hello\n' > p/usr/bin/hello
    chmod 755 p/usr/bin/hello
    dpkg-deb -Znone --root-owner-group --build p $out
  '' { };
  unpacked = build "unpacked" ''
    mkdir $out $control
    dpkg-deb -x ${package} $out
    dpkg-deb -e ${package} $control
    dpkg-deb --contents ${package} | sed 's/  */ /g' > $control/contents
    ln -s ${package} $control/package
  '' { outputs = [ "out" "control" ]; };
  system = build "system" ''
    mkdir -p $out/bin
    for p in ${wrapped}/bin/* ${unpacked}/usr/bin/*; do ln -s $p $out/bin/; done
    cat graph > $out/graph
  '' { exportReferencesGraph = [ "graph" unpacked.control ]; allowedReferences = [ wrapped unpacked package unpacked.control debian ]; };
}
