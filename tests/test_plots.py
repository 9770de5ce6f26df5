import matplotlib
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from attn_course import plots


@pytest.fixture(autouse=True)
def figures_are_closed():
    yield
    plt.close("all")


def test_maps_share_one_scale_with_queries_down_and_the_origin_at_the_top():
    maps = [torch.rand(3, 5), torch.rand(3, 5)]
    figure = plots.attention_maps(maps, ["a", "b"], queries=["x", " ", "\n"], keys=list("vwxyz"))
    images = [image for axis in figure.axes for image in axis.images]
    assert [image.get_clim() for image in images[:2]] == [(0, 1), (0, 1)]
    axis = figure.axes[0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1] and axis.get_ylabel() == "query"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "·", "↵"]
    assert images[0].get_array().shape == (3, 5)


def test_small_maps_can_show_their_values():
    figure = plots.attention_maps([torch.tensor([[0.25, 0.75]])], ["a"], values=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.25", "0.75"]


def test_every_map_needs_a_title():
    with pytest.raises(ValueError):
        plots.attention_maps([torch.rand(2, 2)], ["a", "b"])


def test_masks_are_drawn_where_attention_is_allowed():
    mask = torch.tensor([[True, False, False], [True, True, False]])
    figure = plots.masks([mask], ["a mask"])
    assert figure.axes[0].images[0].get_array().tolist() == mask.tolist()


def test_the_house_style_leaves_torch_alone_and_sets_a_white_ground():
    with matplotlib.rc_context():
        plots.use_house_style()
        assert matplotlib.rcParams["savefig.facecolor"] == "white"
