"""Two processes of every task that really run, against one that is given their whole batches."""

import torch
from processes import fit, of_two, save

from csc_nets.models import create_model
from csc_nets.tasks import create_task

# Networks without batch norm, which would see half a batch.
TASKS = {
    "classification": ("ml_csc_mnist", {"widths": [4, 6, 8], "kernel_size": 3, "stride": [1, 2, 2], "steps": 2}, {}),
    "classification, coded": ("sparse_prior_cnn", {"widths": [4, 6], "kernel_size": 3, "stride": [1, 2]}, {}),
    "dictionary_learning": ("csc_dictionary", {"widths": [5], "kernel_size": 5, "steps": 4}, {"reseed_every": 0}),
}


def trained(name, processes):
    """Parameters and bounds of norms after six batches of twelve images, whatever the number of processes."""
    model_name, arguments, options = TASKS[name]
    torch.manual_seed(0)
    model = create_model(model_name, in_chans=1, **arguments)
    images, labels = torch.rand(72, 1, 16, 16), torch.arange(72) % 3
    before = {key: p.detach().double() for key, p in model.named_parameters()}
    task = create_task(name.split(",")[0], model, optimizer="sgd", lr=0.05, **options)
    fit(task, images, labels, processes)
    assert all(not torch.equal(p, before[key]) for key, p in task.model.named_parameters() if p.requires_grad)
    bounds = {key: value for key, value in task.model.named_buffers() if key.endswith("lipschitz")}
    return {**{key: p.detach() for key, p in task.model.named_parameters()}, **bounds}


def test_two_processes_end_with_the_weights_of_one_that_sees_the_whole_batch(tmp_path):
    two = of_two(__file__, tmp_path)
    for name in TASKS:
        torch.testing.assert_close(two[name], trained(name, processes=1), rtol=1e-8, atol=1e-10)


if __name__ == "__main__":
    save({name: trained(name, processes=2) for name in TASKS})
