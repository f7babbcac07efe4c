"""Runs methods over networks, sparsities and seeds, and keeps what comes out."""

import time

from quality.records import append_record, key_of, read_records

from mmdms.mutators import DPFMutator

from .training import Run

#: What names a result: a second run skips a result whose key is there.
KEY = ('network', 'method', 'sparsity', 'seed', 'steps', 'end', 'settle', 'interval')
DENSE = ('dense', 'dense-half')
#: Methods that prune by steps take the times of the schedule; the others have none.
GRADUAL = {'dpf': 'feedback', 'dpf-damped': 'feedback', 'incremental': 'incremental'}
#: ``one-shot``: pruned half way through the one cycle of the run.
#: ``one-shot-restart``: half of the steps are a training of their own, then pruned and fine-tuned by a second cycle.
METHODS = (*GRADUAL, 'one-shot', 'one-shot-restart', 'snip')


class Runner:
    """Runs the benchmark and appends results to a file.

    Args:
        out (str): The file of results.
        steps (int): Optimizer steps of every method, all told; even.
        end (float): When gradual pruning has reached its sparsity, as a share of the run.
        settle (float): From when on its masks stay.
        interval (int): Steps between two masks of gradual pruning.
    """

    def __init__(self, out, steps=400, end=0.75, settle=1.0, interval=4):
        self.out, self.steps = out, steps
        self.times = dict(end=end, settle=settle, interval=interval)
        self.done = {key_of(record, KEY) for record in read_records(out, KEY)}
        self._halves = {}

    def run(self, networks, sparsities, methods, seeds):
        """Run every combination that the file does not hold yet, seed by seed; dense networks come first."""
        for seed in seeds:
            for network in networks:
                self._halves = {}
                for name in DENSE if 'one-shot-restart' in methods else DENSE[:1]:
                    self._cell(network, name, 0.0, seed)
                for method in methods:
                    for sparsity in sparsities:
                        self._cell(network, method, sparsity, seed)

    def _cell(self, network, method, sparsity, seed):
        times = self.times if method in GRADUAL else dict(end=None, settle=None, interval=None)
        record = dict(network=network, method=method, sparsity=sparsity, seed=seed, steps=self.steps, **times)
        if key_of(record, KEY) in self.done:
            return
        start = time.perf_counter()
        if method in DENSE:
            record.update(accuracy=self._dense(network, method, seed).accuracy(), reached=0.0)
        else:
            mutator = self._mutator(method, sparsity)
            record.update(accuracy=self._pruned(network, method, seed, mutator).accuracy())
            record.update(reached=1 - mutator.kept.double().mean().item())
            record.update(
                layers={name: 1 - kept.double().mean().item() for name, kept in mutator.kept_weights().items()}
            )
        record.update(seconds=round(time.perf_counter() - start, 1))
        append_record(self.out, record)
        self.done.add(key_of(record, KEY))
        print(
            f'{time.strftime("%H:%M:%S")} {network} {method} {sparsity:g} seed {seed}: {record["accuracy"]:.2f} '
            f'({record["seconds"]:.1f} s)',
            flush=True,
        )

    def _mutator(self, method, sparsity):
        if method in GRADUAL:
            schedule = dict(end=self.times['end'], settle=self.times['settle'])
            damped = method == 'dpf-damped'
            return DPFMutator(sparsity, GRADUAL[method], schedule, self.times['interval'], damped=damped)
        if method == 'one-shot-restart':
            return DPFMutator(sparsity, 'one-shot', dict(begin=0.0))
        return DPFMutator(sparsity, method)

    def _dense(self, network, method, seed):
        half, total = self.steps // 2, self.steps
        if method == 'dense-half':  # a training of half the steps, which `one-shot-restart` prunes
            return self._half(network, seed, half)
        return self._half(network, seed, total).fork().train(half, total, total)

    def _half(self, network, seed, total):
        """The network half of the steps into a schedule of ``total``, which methods share: fork it to go on."""
        if total not in self._halves:
            self._halves[total] = Run(network, seed).train(0, self.steps // 2, total)
        return self._halves[total]

    def _pruned(self, network, method, seed, mutator):
        half, total = self.steps // 2, self.steps
        if method == 'one-shot':
            return self._half(network, seed, total).fork().train(half, total, total, mutator)
        if method == 'one-shot-restart':
            run = self._half(network, seed, half).fork()
            run.restart()
            return run.train(0, half, half, mutator)
        return Run(network, seed).train(0, total, total, mutator)
