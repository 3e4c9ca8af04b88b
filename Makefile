# The front door. Every job does its own set-up; see setup.sh for what it installs.
#
#   make demo       build sos, then examples/web: a Debian image with a program compiled from C inside
#   make demo-bootstrap   build sos, then steps/: our own bootstrap steps over binary seeds of Debian
#   make test       everything: unit tests, black-box tests, tests against real peers
#   make check      formatting, lints, documentation, licences
#   make bench      ratios against the real peers (writes nothing; see BENCHMARKS.md)
#   make test-boot  every boot of what was built, in emulated machines: many minutes
#   make test-slow  the rounds that take long

CARGO ?= cargo
SOS = $(or $(CARGO_TARGET_DIR),target)/release/sos

.PHONY: demo demo-bootstrap test test-boot test-slow check bench build clean

build:
	@sh setup.sh demo
	$(CARGO) build --release --locked

demo: build
	@SOS="$(SOS)" sh examples/demo.sh

demo-bootstrap: build
	@"$(SOS)" build steps#rootfs.oci steps#rootfs.ostree steps#rootfs.tar -o steps/result
	@"$(SOS)" recipe pins steps

# What setup.sh installs must be there: a test that would skip for want of a peer fails.
test:
	@sh setup.sh test
	SOS_REQUIRE_PEERS=$${SOS_REQUIRE_PEERS:-1} SOS_FUZZ_SECS=$${SOS_FUZZ_SECS:-60} $(CARGO) test --workspace --features libostree --locked

test-boot:
	@sh setup.sh test
	SOS_REQUIRE_PEERS=$${SOS_REQUIRE_PEERS:-1} SOS_TEST_BOOT=1 $(CARGO) test --locked --test sos -- boot:: bootstrap::media --test-threads 1

test-slow:
	@sh setup.sh test
	SOS_REQUIRE_PEERS=$${SOS_REQUIRE_PEERS:-1} SOS_TEST_SLOW=1 $(CARGO) test --workspace --features libostree --locked

check:
	@sh setup.sh check
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --document-private-items
	@if command -v cargo-deny >/dev/null 2>&1; then $(CARGO) deny --offline check licenses bans sources; \
	else echo "cargo-deny is not installed: the test over cargo metadata checks licences and sources"; \
	$(CARGO) test --locked --test sos structure; fi

bench: build
	@sh setup.sh bench
	@SOS="$(SOS)" bash tests/bench/run.sh

clean:
	$(CARGO) clean
