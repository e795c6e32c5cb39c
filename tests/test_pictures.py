import matplotlib.image
import numpy as np

from pgtorch import pictures


def test_bias_picture_follows_the_bias(tmp_path):
    shown = []
    for end in (-10.0, -5.0):
        lines = [{"update": i, "policy/bias": end * i / 99} for i in range(1, 100)]
        drawn = pictures.draw(tmp_path, lines)
        assert list(drawn) == ["pictures/bias"]
        shown.append(matplotlib.image.imread(drawn["pictures/bias"]))
    assert shown[0].shape == shown[1].shape
    assert not np.array_equal(*shown)
    assert len(np.unique(shown[0].reshape(-1, 4), axis=0)) > 10  # there is something on it


def test_nothing_is_drawn_of_a_run_without_bias(tmp_path):
    assert pictures.draw(tmp_path, [{"update": 1}]) == {}
    assert not list(tmp_path.iterdir())
