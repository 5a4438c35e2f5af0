"""`dit-eval flops` and `dit-eval models` as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dit_eval.dit import DIT
from dit_eval.io import assets
from tests.command import assert_one_sentence, dit_eval

CHECKOUT = Path(__file__).parents[2]


# The libraries are loaded first: that is most of the command and depends on the machine more than on us
COUNTING = """
import sys, time
import torch._dynamo, fvcore.nn, diffusers.models.autoencoders.autoencoder_kl
from dit_eval.cli import run
start = time.process_time()
try:
    run()
finally:
    print("seconds:", time.process_time() - start)
"""


def test_the_table_takes_less_than_five_seconds_after_loading_its_libraries():
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COUNTING, "flops", "table"]
    done = subprocess.run(command, cwd=CHECKOUT, env=alone, capture_output=True, text=True, check=True)
    assert float(done.stdout.rpartition("seconds:")[2]) < 5


def test_the_table_has_all_configurations_and_warns_of_nothing():
    done = dit_eval("flops", "table")
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(line.startswith(" DiT-") for line in done.stdout.splitlines()) == 12 * 2  # costs, kinds


def test_the_listing_names_every_registered_network():
    done = dit_eval("models", "list")
    assert done.returncode == 0
    assert all(name[:16] in done.stdout for name in assets.manifest("models"))


def test_every_registered_checkpoint_says_what_it_is():
    entries = [entry for entry in assets.manifest("models").values() if entry.role == "dit"]
    assert entries
    for entry in entries:
        assert entry.licence
        assert entry.source
        assert entry.bundled or entry.urls
        assert entry.config or (entry.model in DIT and entry.image_size in (256, 512))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["models", "fetch", "dit-xl-3"], "'dit-xl-3' is neither a file nor a registered name"),
        (["models", "fetch", "dit-xl-2-256", "--offline"], "dit-xl-2-256 is not in the cache and --offline"),
        (["flops", "table", "--block", "film"], "'film' is not one of"),
        (["flops", "plot", "--out", "scaling.gif"], "ends in .png or .svg or .pdf"),
        (["flops", "plot", "--out", "scaling.svg", "missing.json"], "missing.json"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_2(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path))
    done = dit_eval(*arguments)
    assert_one_sentence(done)
    assert sentence in done.stderr.splitlines()[-1]
