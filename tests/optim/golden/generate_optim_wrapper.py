"""Writes optim_wrapper.json with the results of mmengine 0.10.7; run it where that is installed.

python tests/optim/golden/generate_optim_wrapper.py
"""

import copy
import json
import logging
from pathlib import Path

import mmengine
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from networks import ACCUMULATION, CLIPPING, PARAMWISE, Network, small_loss, small_network, weights


def accumulation(name: str) -> dict:
    """Train with accumulation; return the weights after every call and the learning rate."""
    counts, iterations, max_counts, init_counts = ACCUMULATION[name]
    network = small_network()
    wrapper = OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), accumulative_counts=counts)
    if max_counts is not None:
        wrapper.initialize_count_status(network, init_counts, max_counts)
    history, updated = [], []
    for iteration in range(init_counts, init_counts + iterations):
        if wrapper._max_counts not in (-1,) and wrapper.inner_count >= wrapper._max_counts:
            break
        wrapper.update_params(small_loss(network, iteration))
        history.append(sum(weights(network)))
        updated.append(wrapper.should_update())
    return {"sums": history, "updated": updated, "weights": weights(network)}


def clipping(name: str) -> dict:
    """Train with clipping; return the recorded norms and the weights."""
    network = small_network()
    wrapper = OptimWrapper(torch.optim.AdamW(network.parameters(), lr=0.01), clip_grad=copy.deepcopy(CLIPPING[name]))
    hub = wrapper.message_hub = MessageHub.get_instance(f"clipping {name}")
    for iteration in range(8):
        wrapper.update_params(small_loss(network, iteration))
    scalars = hub.log_scalars
    norms = scalars["train/grad_norm"].data[0].tolist() if "train/grad_norm" in scalars else None
    return {"norms": norms, "weights": weights(network)}


def paramwise(name: str) -> dict:
    """Return the options of every parameter by name."""
    network = Network()
    config = {"optimizer": {"type": "SGD", "lr": 0.01, "weight_decay": 0.05, "momentum": 0.9}}
    wrapper = DefaultOptimWrapperConstructor(config, copy.deepcopy(PARAMWISE[name]))(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        names[id(parameter)]: {key: group[key] for key in ("lr", "weight_decay", "momentum")}
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    }


def main() -> None:
    """Write the file."""
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    result = {
        "mmengine": mmengine.__version__,
        "torch": torch.__version__,
        "accumulation": {name: accumulation(name) for name in ACCUMULATION},
        "clipping": {name: clipping(name) for name in CLIPPING},
        "paramwise": {name: paramwise(name) for name in PARAMWISE},
    }
    Path(__file__).with_name("optim_wrapper.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
