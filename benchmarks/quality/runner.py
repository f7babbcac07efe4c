"""Runs methods over networks, budgets and seeds, and keeps what comes out."""

import functools
import os
import time

import torch

from mmdms.network.copying import copy_network

from .layout import get_layout
from .methods import Cell, run_method
from .networks import build_network, count_flops, reinitialise
from .records import append_record, key_of, read_records
from .training import FINETUNE_LR, TRAIN_LR, evaluate, train

#: ``finetune``: inherited weights, for the steps that are left of ``total_steps``.
#: ``scratch``: the structure with new weights, for the steps that are left.
#: ``structure``: the structure with new weights, for ``total_steps - search_steps`` whatever the method used.
OUTCOMES = ('finetune', 'scratch', 'structure')


class Runner:
    """Runs the benchmark and appends results to a file.

    Args:
        out (str): The file of results; pretrained networks lie beside it.
        total_steps (int): Steps for each method after pretraining.
        search_steps (int): How many of them a search should use.
        pretrain_steps (int): Steps of the pretraining.
        repeats (int): Retrainings from scratch of each structure.
    """

    def __init__(self, out, total_steps=1200, search_steps=500, pretrain_steps=700, repeats=2):
        self.out = out
        self.cache = f'{os.path.splitext(out)[0]}_pretrained'
        self.steps = dict(total_steps=total_steps, search_steps=search_steps, pretrain_steps=pretrain_steps)
        self.repeats = repeats
        os.makedirs(self.cache, exist_ok=True)
        self.done = {key_of(record) for record in read_records(out)}

    def run(self, networks, targets, methods, seeds, outcomes):
        """Run every combination that the file does not hold yet, seed by seed."""
        for seed in seeds:
            for network in networks:
                for target in targets:
                    for method in methods:
                        self.run_cell(network, target, method, seed, outcomes)

    def pretrained(self, network, seed):
        """The seed's pretrained network, trained on the first call and then read from its file."""
        path = os.path.join(self.cache, f'{network}_{seed}_{self.steps["pretrain_steps"]}.pth')
        model = build_network(network, seed)
        if os.path.exists(path):
            model.load_state_dict(torch.load(path, weights_only=True))
            return model
        cell = Cell(network, 1.0, seed, None, **self.steps)
        accuracy, seconds = train(model, self.steps['pretrain_steps'], cell.stream_seed('pretrain'))
        record = self._record(cell, 'full', 'pretrained', model)
        record.update(accuracy=accuracy, accuracies=[accuracy], steps=self.steps['pretrain_steps'])
        record.update(pretraining=0, used_steps=0, search_seconds=0.0, train_seconds=seconds)
        self._write(record)
        torch.save(model.state_dict(), f'{path}.part')
        os.replace(f'{path}.part', path)
        return model

    def run_cell(self, network, target, method, seed, outcomes):
        """Run one method on one cell, for the outcomes that are missing."""
        cell = Cell(network, target, seed, lambda: self.pretrained(network, seed), **self.steps)
        key = dict(network=network, target=target, seed=seed, method=method, repeats=self.repeats, **self.steps)
        missing = [outcome for outcome in outcomes if key_of({**key, 'outcome': outcome}) not in self.done]
        if not missing or missing == ['finetune'] and method == 'random':
            return
        self.pretrained(network, seed)  # so that the search is timed without it
        found = run_method(method, cell)
        before = evaluate(found.model)
        total, search = cell.total_steps, cell.search_steps
        retrain = functools.cache(lambda steps: self._retrain(cell, found.model, steps))
        for outcome in missing:
            steps = total - (search if outcome == 'structure' else found.steps)
            if outcome != 'finetune':
                results = retrain(steps)
            elif found.inherits:
                model = copy_network(found.model)
                results = [train(model, steps, cell.stream_seed('finetune'), FINETUNE_LR)]
            else:
                continue
            accuracies, seconds = zip(*results)
            record = self._record(cell, method, outcome, found.model)
            record.update(accuracy=sum(accuracies) / len(accuracies), accuracies=accuracies, accuracy_before=before)
            record.update(pretraining=cell.pretrain_steps - found.instead, used_steps=found.steps + found.instead)
            record.update(steps=steps, search_seconds=round(found.seconds, 2))
            record.update(train_seconds=round(sum(seconds) / len(seconds), 2), notes=found.notes)
            self._write(record)

    def _retrain(self, cell, model, steps):
        results = []
        for repeat in range(self.repeats):
            seed = cell.stream_seed('retrain', repeat)
            results.append(train(reinitialise(copy_network(model), seed), steps, seed, TRAIN_LR))
        return results

    def _record(self, cell, method, outcome, model):
        flops = count_flops(model)
        layout = get_layout(cell.network)
        return dict(
            network=cell.network,
            target=cell.target,
            seed=cell.seed,
            method=method,
            outcome=outcome,
            total_steps=cell.total_steps,
            search_steps=cell.search_steps,
            repeats=self.repeats,
            flops=flops,
            flops_ratio=flops / layout.target(1),
            params=sum(parameter.numel() for parameter in model.parameters()),
            widths=layout.widths_of(model),
        )

    def _write(self, record):
        append_record(self.out, record)
        self.done.add(key_of(record))
        print(
            f'{time.strftime("%H:%M:%S")} {record["network"]} {record["target"]} seed {record["seed"]} '
            f'{record["method"]} {record["outcome"]}: {record["accuracy"]:.2f} '
            f'({record["pretraining"]}+{record["used_steps"]}+{record["steps"]} steps, '
            f'{record["flops_ratio"]:.4f} of the FLOPs, search {record["search_seconds"]:.1f} s, '
            f'training {record["train_seconds"]:.1f} s)',
            flush=True,
        )
