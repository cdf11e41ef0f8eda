# doppel's front door. The build is Meson's; this file is for those who type make. It builds without the tests, which need more packages; ./check adds them.
BUILD ?= build

all build: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet
	@ln -sf src/cli/doppel $(BUILD)/doppel

$(BUILD)/build.ninja:
	@scripts/install-deps
	@meson setup $(BUILD) -Dtests=false > $(BUILD).log 2>&1 || { tail -n 20 $(BUILD).log >&2; exit 1; }

demo:
	@./demo

check:
	@./check

check-long:
	@./check --long

# make bench ARGS="-t integer,python -e native,tcg,interp -n 1"; tests/bench/bench --help
bench: build
	@scripts/install-deps bench
	@tests/bench/bench $(ARGS)

clean:
	rm -rf build build-*

.PHONY: all build demo check check-long bench clean
