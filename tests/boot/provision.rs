//! Devices that were provisioned: what starts from them, and what does when provisioning was cut short.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::{Machine, RUNNING, all_wanted, with_machine};

/// Two versions for one device, which say on the console who they are.
const VERSIONS: &str = r#"
{ sos, ... }:
let
  machine = (import ./sos.nix { inherit sos; }).machine;
  of = version: sos.disk {
    name = "web";
    inherit version;
    rootfs = sos.rootfs.edit {
      name = "machine-${version}";
      rootfs = machine;
      services.enable = [ "version.service" ];
      file = [
        {
          path = "/etc/systemd/system/version.service";
          content = ''
            [Unit]
            Before=console-state.service
            [Service]
            Type=oneshot
            ExecStart=/bin/sh -c 'echo "this is version ${version}" >/dev/console'
            [Install]
            WantedBy=multi-user.target
          '';
        }
      ];
    };
    slots = 2;
    root-size = "900M";
    esp-size = "256M";
    cmdline = [ "quiet" "mitigations=off" ];
  };
in
{
  one = of "1";
  two = of "2";
}
"#;

fn device(machine: &Machine) {
    machine.world.write("versions.nix", VERSIONS);
    let file = std::fs::File::create(machine.world.project().join("device")).expect("a file");
    file.set_len(3 << 30).expect("a size");
    machine
        .world
        .sos([
            "provision",
            "apply",
            "device",
            "./versions.nix#one",
            "--yes",
        ])
        .ok();
}

#[test]
fn a_device_starts_one_version_after_the_other() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        device(machine);
        machine.starts(
            "device",
            &["--expect", "this is version 1", "--expect", RUNNING],
        );
        machine
            .world
            .sos([
                "provision",
                "apply",
                "device",
                "./versions.nix#two",
                "--yes",
            ])
            .ok();
        machine
            .world
            .sos(["provision", "drift", "device", "./versions.nix#two"])
            .ok();
        machine.starts(
            "device",
            &["--expect", "this is version 2", "--expect", RUNNING],
        );
        std::fs::remove_file(machine.world.project().join("device")).expect("removed");
    });
}

/// `kill -9` when the root of the new version has been written and when its kernel has: the version before starts, and the next try
/// brings the new one.
#[test]
fn what_is_killed_leaves_the_version_before() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        device(machine);
        for done in ["to the partition `root-b`", "never said"] {
            let mut command = machine.world.command_of(&[
                "provision",
                "apply",
                "device",
                "./versions.nix#two",
                "--yes",
            ]);
            let mut child = command
                .stderr(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("started");
            let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
            for line in lines.map_while(Result::ok) {
                if line.contains(done) {
                    child.kill().expect("killed");
                }
            }
            let ended = child.wait().expect("ended");
            if done == "never said" {
                assert!(ended.success());
                machine.starts(
                    "device",
                    &["--expect", "this is version 2", "--expect", RUNNING],
                );
            } else {
                machine.starts(
                    "device",
                    &["--expect", "this is version 1", "--expect", RUNNING],
                );
            }
        }
        std::fs::remove_file(machine.world.project().join("device")).expect("removed");
    });
}
