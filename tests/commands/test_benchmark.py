import json
import re

import pytest
from support import call


def test_rows_beside_their_rivals(run_script, tmp_path):
    done = run_script(
        "benchmark.py", "--only", "lesson", "restaurant", "--largest", 20, "--seeds", 1, "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["threads"] == 1
    rows = [(row["work"], row["who"]) for row in found["rows"]]
    for work in (
        "one update of the lesson, all logging on",
        "Restaurant-v0, 1 environments",
        "Restaurant-v0, 16 environments",
    ):
        whos = [who for of, who in rows if of == work]
        assert whos[0] == "pgtorch"
        assert len(whos) == 2
    assert all(row["median"] > 0 and row["unit"] for row in found["rows"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--seeds 0", "seeds must be at least 1, got 0"),
        ("--largest 0", "largest must be at least 1, got 0"),
        ("--only love", "love"),
        ("--only lesson --largest 3", "largest needs 'restaurant' in only, got lesson"),
    ],
)
def test_bad_input_gives_one_line(tmp_path, flags, named):
    status, out, error = call("benchmark", *flags.split(), cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .+\n", error)
    assert named in error
