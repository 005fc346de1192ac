import pytest
import torch

from csc_nets.models import create_model


def test_indices_count_from_either_end(narrow, images):
    model, x = narrow("csc_small").eval(), images()
    every = model.forward_intermediates(x, intermediates_only=True)
    for indices, expected in [(2, [1, 2]), ([-1, 0], [0, 2]), ((1,), [1]), (None, [0, 1, 2])]:
        got = model.forward_intermediates(x, indices, intermediates_only=True)
        assert [t.shape for t in got] == [every[i].shape for i in expected]
        assert all((a == every[i]).all() for a, i in zip(got, expected, strict=True))


def test_stages_after_the_last_chosen_one_are_not_run(narrow, images):
    model = narrow("csc_small").eval()
    ran = []
    for i, stage in enumerate(model.stages):
        stage.register_forward_hook(lambda *_, i=i: ran.append(i))
    model.forward_intermediates(images(), [0, 1], intermediates_only=True)
    assert ran == [0, 1]


@pytest.mark.parametrize("indices", [4, 0, -1, [], [3], [0, -4]])
def test_stages_that_do_not_exist_are_refused(indices, narrow, images):
    with pytest.raises(ValueError, match="indices must name some of the 3 stages, got"):
        narrow("csc_small").forward_intermediates(images(), indices)
    with pytest.raises(ValueError, match="indices must name some of the 3 stages, got"):
        create_model("csc_small", features_only=True, out_indices=indices)


def test_features_only_loads_a_part_of_the_whole(narrow, images):
    whole, part = narrow("sdnet18_all"), narrow("sdnet18_all", features_only=True, out_indices=[1])
    assert part.feature_info.channels() == [whole.feature_info.channels()[1]]
    state = whole.state_dict()
    part.load_state_dict({key: state[key] for key in part.state_dict()})
    assert max(int(key.split(".")[1]) for key in part.state_dict()) == 1


def test_no_weight_decay_of_known_parameters(narrow):
    model = narrow("sdnet18", stem="imagenet", learn_lam=True)
    spared = model.no_weight_decay()
    assert {"stages.0.1.weight", "stages.0.1.bias", "fc.bias"} <= spared
    assert {key for key in spared if key.startswith("stages.0.0.")} == {
        f"stages.0.0.{key}" for key, _ in model.stages[0][0].named_parameters()
    }
    assert "fc.weight" not in spared and "stages.1.0.body.0.weight" not in spared


@pytest.mark.parametrize("learn_lam", [False, True])
def test_set_lam_is_building_with_it(learn_lam, narrow, images):
    changed, built = narrow("sdnet18_all", learn_lam=learn_lam), narrow("sdnet18_all", learn_lam=learn_lam, lam=0.4)
    assert not torch.allclose(changed.eval()(images()), built.eval()(images()))
    changed.set_lam(0.4)
    torch.testing.assert_close(changed(images()), built(images()))
    with pytest.raises(ValueError, match=r"lam must be a finite number >= 0 or a tensor, got -1.0"):
        changed.set_lam(-1.0)
