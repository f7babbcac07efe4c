"""A markdown report of the recorded results."""

from collections import defaultdict

from quality.report import paired, spread

from .runner import DENSE, GRADUAL, METHODS


def _row(cells):
    return '| ' + ' | '.join(cells) + ' |'


def _group(records):
    """Group records: ``{(network, steps): {(method, its times): {sparsity: {seed: record}}}}``."""
    groups = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for record in records:
        times = tuple(record[name] for name in ('end', 'settle', 'interval'))
        method = record['method'], times
        groups[record['network'], record['steps']][method][record['sparsity']][record['seed']] = record
    return groups


def _name(method, methods):
    """A method, with the times of its schedule where it was run with several."""
    name, (end, settle, interval) = method
    if sum(other == name for other, _ in methods) == 1:
        return name
    return f'{name} (end {end:g}, settle {settle:g}, every {interval})'


def _accuracy(found):
    return {seed: record['accuracy'] for seed, record in found.items()}


def _tables(methods):
    order = sorted(methods, key=lambda method: ((*DENSE, *METHODS).index(method[0]), method[1]))
    dense = {method[0]: _accuracy(methods[method][0.0]) for method in order if method[0] in DENSE}
    pruned = [method for method in order if method[0] not in DENSE]
    sparsities = sorted({sparsity for method in pruned for sparsity in methods[method]})
    lines = [f'{name}: {spread(list(found.values()))} ({len(found)} seeds).' for name, found in dense.items()]
    head = ['method', *(f'{100 * sparsity:g}%' for sparsity in sparsities)]
    rule = ['---'] * len(head)
    accuracy = [head, rule]
    ours = [['DPF minus it (pairs)', *head[1:]], rule]
    lost = [['minus dense (pairs)', *head[1:]], rule]
    reference = next((method for method in pruned if method[0] == 'dpf'), None)
    for method in pruned:
        name = _name(method, order)
        found = {sparsity: _accuracy(methods[method][sparsity]) for sparsity in sparsities}
        accuracy.append([name, *(_spread_of(found[sparsity]) for sparsity in sparsities)])
        lost.append([name, *(paired(found[sparsity], dense.get('dense', {})) for sparsity in sparsities)])
        if reference is not None and method != reference:
            best = {sparsity: _accuracy(methods[reference][sparsity]) for sparsity in sparsities}
            ours.append([name, *(paired(best[sparsity], found[sparsity]) for sparsity in sparsities)])
    for rows in (accuracy, lost, ours):
        if len(rows) > 2:
            lines += ['', *map(_row, rows)]
    return lines


def _spread_of(found):
    return f'{spread(list(found.values()))} ({len(found)})' if found else '–'


def make_report(records):
    """Markdown: per network accuracies by method and sparsity, the loss to dense, and DPF against the others.

    Figures are test accuracies in percent, mean ± sample standard deviation (number of seeds). Differences are
    of pairs with the same seed: the same first weights and the same batches.
    """
    lines = []
    for (network, steps), methods in sorted(_group(records).items()):
        lines += [f'### {network}, {steps} steps', '', *_tables(methods), '']
    missed = [record for record in records if abs(record['reached'] - record['sparsity']) > 0.001]
    lines.append(f'Runs whose sparsity is off the target by more than 0.1%: {len(missed)} of {len(records)}.')
    gradual = sorted({record['seconds'] for record in records if record['method'] in GRADUAL})
    if gradual:
        lines.append(f'A run of DPF or incremental pruning takes {gradual[len(gradual) // 2]:.0f} s.')
    return '\n'.join(lines) + '\n'
