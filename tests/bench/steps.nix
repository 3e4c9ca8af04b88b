# A chain of steps over a root filesystem of many files: `base` makes the files, and each step of `chain` starts from the one before.
#
#   files   regular files of the root filesystem; every 40th has a second name in another directory, some are setuid and not of root
#   busybox a static busybox
#   salt    makes all of the chain new
#   script  what step number `n` runs
{ files, busybox, salt ? "", length ? 0, script ? n: ":" }:
let
  step = name: attrs: import ../support/rootfs.nix "step" ({ inherit name; } // attrs);
  tool = builtins.path { path = busybox; name = "busybox"; recursive = true; };
  tools = step "tools" {
    mounts."/busybox" = "${tool}";
    shell = [ "/busybox" "sh" "-eu" ];
    script = ''
      /busybox mkdir /bin /etc
      /busybox cp /busybox /bin/busybox
      /busybox ln -s busybox /bin/sh
    '';
  };
  base = step "base-${toString files}" {
    rootfs = "${tools}";
    script = ''
      n=0
      while [ $n -lt ${toString files} ]; do
        d=/usr/d$((n / 1000))/s$((n / 40))
        [ $((n % 40)) -gt 0 ] || busybox mkdir -p $d
        echo "content of $n" > $d/f$n
        n=$((n + 1))
      done
      n=0
      while [ $n -lt ${toString files} ]; do
        d=/usr/d$((n / 1000))/s$((n / 40))
        busybox ln $d/f$n /usr/d$((n / 1000))/l$n
        busybox ln -s s$((n / 40))/f$n /usr/d$((n / 1000))/link-$n
        n=$((n + 40))
      done
      busybox find /usr -name '*50' -exec busybox chown 33:44 {} + -exec busybox chmod 4750 {} +
    '';
  };
  chain = builtins.foldl' (below: n: step "step-${salt}-${toString n}" {
    rootfs = "${below}";
    env.salt = salt;
    script = script n;
  }) base (builtins.genList (n: n + 1) length);
in
{ inherit base chain step; }
