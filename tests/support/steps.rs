//! Chains of steps from nothing but a static busybox, for tests of what surrounds a step.

use super::{World, peer};

/// A function in Nix: the builder and the attributes of a derivation that makes a root filesystem.
pub(crate) const ROOTFS: &str = include_str!("rootfs.nix");

/// Library text in Nix: `step name attrs`, and `base`, a root filesystem of busybox and `/usr` with 400 files, every tenth with two names.
const LIBRARY: &str = r#"
  step = name: attrs: rootfs "step" ({ inherit name; } // attrs);
  tools = step "tools" {
    mounts."/busybox" = "${builtins.path { path = @busybox@; name = "busybox"; }}";
    shell = [ "/busybox" "sh" "-eu" ];
    script = "/busybox mkdir /bin /etc /usr; /busybox cp /busybox /bin/busybox; /busybox ln -s busybox /bin/sh";
  };
  base = salt: step "base" {
    rootfs = "${tools}";
    env = { inherit salt; };
    script = ''
      n=0
      while [ $n -lt 400 ]; do
        [ $((n % 20)) -gt 0 ] || busybox mkdir -p /usr/d$((n / 20))
        echo "$salt $n" > /usr/d$((n / 20))/f$n
        [ $((n % 10)) -gt 0 ] || busybox ln /usr/d$((n / 20))/f$n /usr/l$n
        n=$((n + 1))
      done
    '';
  };
"#;

/// A Nix expression of steps: `body` may use what [`LIBRARY`] names. Nothing where there is no busybox.
pub(crate) fn steps(body: &str) -> Option<String> {
    let busybox = peer("busybox")?;
    let library = LIBRARY.replace("@busybox@", &busybox.display().to_string());
    Some(format!("let\nrootfs = {ROOTFS};{library}in\n{body}\n"))
}

/// A chain of `length` steps on the base of `salt`; each changes files, names and directories that the one before left.
pub(crate) fn chain(salt: &str, length: usize) -> Option<String> {
    let body = format!(
        r#"builtins.foldl' (below: n: step "step-${{toString n}}" {{
  rootfs = "${{below}}";
  script = ''
    echo ${{toString n}} > /usr/d3/f70
    echo more >> /usr/d5/f110
    busybox rm -rf /usr/d${{toString (6 + n)}} /etc/now
    busybox mkdir -p /etc/now/below /usr/d4
    busybox ln /usr/d2/f40 /etc/now/below/link
    busybox chown 33:44 /etc/now
    busybox dd if=/dev/zero of=/etc/now/zeros bs=65536 count=20 2>/dev/null
    busybox mv /usr/d4 /usr/moved-${{toString n}}
  '';
}}) (base "{salt}") (builtins.genList (n: n + 1) {length})"#
    );
    steps(&body)
}

/// Says why steps cannot run here, after trying one.
pub(crate) fn possible(w: &World) -> Option<()> {
    w.write("probe.nix", &steps("tools")?);
    let run = w.sos(["build", "--no-link", "-q", "probe.nix"]);
    if run.code != 0 {
        super::skip(&format!(
            "no steps here: {}",
            run.stderr.lines().next().unwrap_or_default()
        ));
        return None;
    }
    Some(())
}
