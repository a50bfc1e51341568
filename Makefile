# make setup   what is needed, by apt and pip; leaves .venv/bin/klasy. Quick when it is all there.
# make test    every check and test, on this machine and inside the lab's guests
# make stress  the reliability runs at full size, on every kernel of the lab: some hours
# make demo    weave the first aspect into a running kernel, in the lab
# make fuzz    a million mutated aspects through the parser and the checker; goes on where it was ended (hours)
# make clean   remove what was made here (not the lab's cache, ~/.cache/klasy)

PYTHON  = /usr/bin/python3
SUDO    = $(if $(filter 0,$(shell id -u)),,sudo)
# qemu, busybox, kmod: the lab. python3-bpfcc: advice in C. The others: what the guest tests and the benchmarks need, and compare
# klasy with.
PACKAGES = python3-venv qemu-system-x86 busybox-static kmod python3-bpfcc iproute2 e2fsprogs xfsprogs bpftool bpftrace

# What else klasy bench compares klasy with, where it is installed: linux-perf strace trace-cmd python3-matplotlib

.PHONY: setup test stress demo fuzz clean packages

setup: packages .venv/.ready

# --system-site-packages: Debian's python3-bpfcc, where it is installed, cannot be had from pip.
.venv/.ready: pyproject.toml Makefile
	test -x .venv/bin/python || $(PYTHON) -m venv --system-site-packages .venv
	.venv/bin/pip install --quiet --editable '.[dev]'
	$(LAUNCHER)
	touch $@

# pip's own script for the command does the same, after Python has looked for installed packages: a quarter of a second
# in a guest. Here Python starts without (-S), and looks for them when klasy first needs one: klasy.startup. It takes the
# code from the #! line, and has not to find out what kind of script the file is; for "python .venv/bin/klasy" it stands
# there once more. Ctrl-C before klasy heeds it ends it without Python's traceback (0: the default), unless who began it
# has it ignored (1). A #! line takes no blanks in the interpreter's path, and 255 characters: else pip's script stays.
define LAUNCHER
	@code='sys.path.insert(0,"$(CURDIR)/src");from klasy.__main__ import entry_point;entry_point()'; \
	quiet='import _signal as s;s.getsignal(2)==1 or s.signal(2,0)'; \
	first="#!$(CURDIR)/.venv/bin/python -ISc$$quiet;import sys;del sys.argv[0];$$code"; \
	case '$(CURDIR)' in *[[:space:]\"\\]*) exit;; esac; \
	test "$${#first}" -gt 250 || printf '%s\n' "$$first" "import sys;$$code" > .venv/bin/klasy
endef

packages:
	@missing=; \
	for package in $(PACKAGES); do \
	    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	    echo "installing:$$missing"; \
	    $(SUDO) apt-get update -qq || echo "apt-get update failed; trying with the lists there are"; \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	fi

test: setup
	.venv/bin/python tests/vm/run.py

stress: setup
	.venv/bin/python tests/stress/run.py

demo: setup
	.venv/bin/klasy lab -- bash examples/demo.sh

fuzz: setup
	.venv/bin/python -c 'import atheris' 2>/dev/null || .venv/bin/pip install --quiet --editable '.[fuzz]'
	nice -n 19 .venv/bin/python tests/stress/fuzz_parse.py

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
