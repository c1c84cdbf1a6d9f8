# The only entry point. Debian 12 or 13; needs git and make to begin with.
# graced is built and tested with Debian's own tools and interpreter, whatever else is first in PATH.
export PATH := /usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL := C.UTF-8
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON := /usr/bin/python3
VERSION := $(shell sed -n 's/^version = //p' setup.cfg)
CACHE := $(or $(XDG_CACHE_HOME),$(if $(filter 0,$(shell id -u)),/var/cache,$(HOME)/.cache))/graced
VENV := $(CACHE)/venv-$(shell sed 's/[^0-9.]//g' /etc/debian_version | cut -d. -f1)
PYTEST := $(PYTHON) -B -m pytest
DEB := build/graced_$(VERSION)_all.deb
JOBS ?= 3

# What the package needs to run, what it is built with, and what tests it. Debian main only.
RUN_PACKAGES := python3 python3-click python3-jeepney python3-nacl python3-prometheus-client python3-psutil \
	python3-systemd
BUILD_PACKAGES := debhelper dh-python dpkg-dev fakeroot
TEST_PACKAGES := codespell gcc git golang-go golang-golang-x-mod-dev libc6-dev lintian man-db mandoc minisign \
	mmdebstrap openssl python3-hypothesis python3-pytest python3-pytest-timeout python3-pytest-xdist python3-venv \
	shellcheck signify-openbsd systemd-container
PIP_PACKAGES := ruff==0.17.6 mypy==2.4.1
# What `make bench-peers` compares the queue with, each in an environment of its own; never needed by the package.
PEERS := $(subst /venv-,/peers-,$(VENV))
HUEY_PACKAGES := huey==3.5.4
CELERY_PACKAGES := 'celery[redis]==5.7.0'

.PHONY: help
help:
	@echo 'make run      break nginx three ways in a throwaway container and watch it heal (KEEP=1 leaves it up)'
	@echo 'make test     everything: check, unit, daemon, package and system tests on Debian 12 and 13'
	@echo 'make check    linters, types, import floors, unit files (under a minute)'
	@echo 'make deb      build/graced_$(VERSION)_all.deb'
	@echo 'make system   system tests only (K=pattern, SIT=1 keeps a failed machine up, JOBS=n)'
	@echo 'make bench    measure against the goals, into build/bench.json (35 minutes; ONLY=name, QUICK=1 to try)'
	@echo 'make bench-peers  the task queue against beanstalkd, huey and Celery (15 minutes; QUICK=1 to try)'
	@echo 'make chaos    break every daemon and every adopted unit in a container, one table'
	@echo 'make vm       cut the power of a virtual machine (5 minutes a cut; CUTS=3, SUITE=bookworm)'
	@echo 'make install  install into DESTDIR'
	@echo 'make clean    remove build/'
	@echo
	@echo 'run, test, system, bench, bench-peers, chaos and vm boot machines and need root; what they need is installed by apt.'

# Of Debian's prometheus only the checker: installing the package would start a server on the machine that tests.
PROMTOOL := $(CACHE)/bin/promtool

# --- tools ------------------------------------------------------------------------------------------------------

APT_STAMP := $(CACHE)/deps-$(shell echo '$(RUN_PACKAGES) $(BUILD_PACKAGES) $(TEST_PACKAGES)' | cksum | cut -d' ' -f1)

.PHONY: deps
deps: $(APT_STAMP) $(PROMTOOL)

$(APT_STAMP):
	@mkdir -p $(CACHE)
	@missing=$$(for p in $(RUN_PACKAGES) $(BUILD_PACKAGES) $(TEST_PACKAGES); do \
	    dpkg-query -W -f '$${db:Status-Abbrev}' $$p 2>/dev/null | grep -q '^ii' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	    echo "installing: $$missing" | tr '\n' ' '; echo; \
	    [ "$$(id -u)" = 0 ] || { echo 'this needs root: sudo make deps' >&2; exit 1; }; \
	    apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@touch $@

# In a package of its own since Debian 13.
$(PROMTOOL): | $(APT_STAMP)
	@rm -rf $(CACHE)/prometheus && mkdir -p $(CACHE)/prometheus $(CACHE)/bin
	@apt-cache show prometheus >/dev/null 2>&1 || apt-get update -qq
	@cd $(CACHE)/prometheus && \
	    apt-get download -qq $$(apt-cache show promtool >/dev/null 2>&1 && echo promtool || echo prometheus) && \
	    dpkg-deb -x prom*.deb . && mv usr/bin/promtool $@
	@rm -rf $(CACHE)/prometheus

$(VENV)/.$(subst ==,-,$(subst $(eval) ,_,$(PIP_PACKAGES))): $(APT_STAMP)
	@rm -rf $(VENV)
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check $(PIP_PACKAGES)
	@touch $@

.PHONY: tools
tools: $(VENV)/.$(subst ==,-,$(subst $(eval) ,_,$(PIP_PACKAGES)))

# --- checks and tests -------------------------------------------------------------------------------------------

.PHONY: check
check: deps tools
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --cache-dir build/mypy
	$(PYTEST) -q --import-mode=importlib tests/lint

.PHONY: test
test: check $(DEB)
	$(PYTHON) -B -m tests.support.run_all --deb $(DEB) --jobs $(JOBS)

.PHONY: system
system: deps $(DEB)
	$(PYTHON) -B -m tests.support.run_all --deb $(DEB) --jobs $(JOBS) --only system $(if $(K),-k '$(K)')

.PHONY: run
run: deps $(DEB)
	$(PYTHON) -B -m tests.support.demo --deb $(DEB) $(if $(SUITE),--suite $(SUITE)) $(if $(KEEP),--keep)

.PHONY: bench
bench: deps $(DEB)
	$(PYTHON) -B -m tests.bench --deb $(DEB) --output build/bench.json $(if $(SUITE),--suite $(SUITE)) \
	    $(if $(ONLY),--only $(ONLY))

PEERS_STAMP := $(PEERS)/.$(shell echo $(HUEY_PACKAGES) $(CELERY_PACKAGES) | cksum | cut -d' ' -f1)

$(PEERS_STAMP): $(APT_STAMP)
	@rm -rf $(PEERS)
	$(PYTHON) -m venv $(PEERS)/huey
	$(PEERS)/huey/bin/pip install --quiet --disable-pip-version-check $(HUEY_PACKAGES)
	$(PYTHON) -m venv $(PEERS)/celery
	$(PEERS)/celery/bin/pip install --quiet --disable-pip-version-check $(CELERY_PACKAGES)
	@touch $@

.PHONY: bench-peers
bench-peers: deps $(DEB) $(PEERS_STAMP)
	$(PYTHON) -B -m tests.bench.queue_peers --deb $(DEB) --venvs $(PEERS) --output build/bench-peers.json \
	    $(if $(SUITE),--suite $(SUITE))

.PHONY: chaos
chaos: deps $(DEB)
	$(PYTHON) -B -m tests.support.chaos --deb $(DEB) $(addprefix --suite ,$(SUITE))

VM_PACKAGES := e2fsprogs qemu-system-x86
VM_STAMP := $(CACHE)/vm-$(shell echo '$(VM_PACKAGES)' | cksum | cut -d' ' -f1)

$(VM_STAMP): $(APT_STAMP)
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(VM_PACKAGES) >/dev/null
	@touch $@

.PHONY: vm
vm: deps $(DEB) $(VM_STAMP)
	GRACED_CUTS=$(or $(CUTS),3) GRACED_DEB=$(DEB) $(PYTEST) -q -s tests/vm $(if $(SUITE),-k $(SUITE))

# --- package ----------------------------------------------------------------------------------------------------

PACKAGED := graced chaos units packaging docs README.md NEWS.md LICENSE Makefile setup.cfg
SOURCES = $(shell find $(wildcard $(PACKAGED)) -type f ! -name '*.pyc' ! -name '* *')

.PHONY: deb
deb: deps $(DEB)
	@echo $(DEB)

$(DEB): $(SOURCES) | $(APT_STAMP)
	@mkdir -p build
	@flock build/.deb.lock packaging/build-deb $(VERSION) $@ $(wildcard $(PACKAGED))

# Never mixes with what another version left: modules and data come from this tree only.
UNITDIR := /lib/systemd/system
SHARE := /usr/share/graced
LIBEXEC := /usr/lib/graced
BIN := packaging/launchers/gracectl packaging/launchers/graced-worker

.PHONY: install
install:
	@test -n "$(VERSION)"
	install -d $(DESTDIR)$(LIBEXEC) $(DESTDIR)/usr/bin $(DESTDIR)$(UNITDIR)
	install -d $(DESTDIR)/etc/graced/profiles $(DESTDIR)/etc/graced/playbooks $(DESTDIR)/etc/graced/policy.d \
	    $(DESTDIR)/etc/graced/watch.d
	# Where the daemons' own root is put together (RootDirectory=): places to mount on, never anything in them. The home
	# of root leads nowhere: systemd would make a directory in its place, and then mount over it.
	install -d $(foreach d,dev etc proc sys tmp usr var/lib/graced var/log var/tmp,$(DESTDIR)$(LIBEXEC)/root/$d)
	install -d $(foreach d,credentials graced log systemd/incoming systemd/journal,$(DESTDIR)$(LIBEXEC)/root/run/$d)
	for d in bin lib lib64 sbin; do ln -sfn usr/$$d $(DESTDIR)$(LIBEXEC)/root/$$d; done
	ln -sfn nowhere $(DESTDIR)$(LIBEXEC)/root/root
	cd graced && find . -name '*.py' -exec install -D -m 644 '{}' '$(DESTDIR)/usr/lib/python3/dist-packages/graced/{}' \;
	cd chaos && find . '(' -name '*.py' -o -name '*.json' ')' -exec install -D -m 644 '{}' '$(DESTDIR)$(SHARE)/chaos/{}' \;
	cd graced/share && find . -type f -exec install -D -m 644 '{}' '$(DESTDIR)$(SHARE)/{}' \;
	for f in $(filter-out $(BIN),$(wildcard packaging/launchers/*)); do install -m 755 $$f $(DESTDIR)$(LIBEXEC)/; done
	install -m 755 $(BIN) $(DESTDIR)/usr/bin/
	install -m 644 packaging/etc/graced.toml $(DESTDIR)/etc/graced/graced.toml
	for f in units/*.service units/*.socket units/*.target units/*.slice units/*.timer units/*.path; do \
	    install -m 644 $$f $(DESTDIR)$(UNITDIR)/; done
	ln -sf graced-supervisor.service $(DESTDIR)$(UNITDIR)/graced.service
	install -D -m 644 units/graced.sysusers $(DESTDIR)/usr/lib/sysusers.d/graced.conf
	install -D -m 644 units/graced.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/graced.conf
	install -D -m 644 units/graced.catalog $(DESTDIR)/usr/lib/systemd/catalog/graced.catalog
	for f in docs/man/*.[1-8]; do [ ! -e $$f ] || \
	    install -D -m 644 $$f $(DESTDIR)/usr/share/man/man$${f##*.}/$${f##*/}; done
	for f in packaging/completions/*; do [ ! -e $$f ] || \
	    install -D -m 644 $$f $(DESTDIR)/usr/share/bash-completion/completions/$${f##*/}; done
	install -D -m 644 packaging/zsh/_gracectl $(DESTDIR)/usr/share/zsh/vendor-completions/_gracectl

# The shipped configuration, from the option tables.
.PHONY: graced.toml
graced.toml: deps
	$(PYTHON) -c 'from graced.base.config import render_default as r; from graced.cli.checks import all_options as o; print(r(o()), end="")' > packaging/etc/graced.toml

.PHONY: clean
clean:
	rm -rf build
