"""A markdown report of the recorded results."""

import statistics
from collections import defaultdict

OUTCOMES = {
    'finetune': 'inherited weights, fine-tuned',
    'scratch': 'structure retrained from scratch, equal total steps',
    'structure': 'structure retrained from scratch, equal training steps',
}


def spread(values):
    """``mean ± sample standard deviation``, without the latter for a single value."""
    if len(values) < 2:
        return f'{values[0]:.2f}'
    return f'{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}'


def paired(ours, theirs):
    """Mean and spread of the differences on the seeds that both have, and how many those are."""
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        return '–'
    return f'{spread([ours[seed] - theirs[seed] for seed in shared])} ({len(shared)})'


def aggregate(records):
    """Group records: ``{(network, target, outcome, steps setting): {method: [record, ...]}}``."""
    groups = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record['method'] != 'full':
            setting = (record['total_steps'], record['search_steps'])
            groups[record['network'], record['target'], record['outcome'], setting][record['method']].append(record)
    return groups


def _table(methods):
    ours = sorted(name for name in methods if name.startswith('mmdms'))
    accuracy = {name: {r['seed']: r['accuracy'] for r in found} for name, found in methods.items()}
    heads = ['method', 'accuracy', 'seeds', 'pretraining + search + training steps', 'search s', 'FLOPs']
    heads += [f'{name} minus it (pairs)' for name in ours]
    rows = [heads, ['---'] * len(heads)]
    for name in sorted(methods, key=lambda name: -statistics.mean(accuracy[name].values())):
        found = methods[name]
        steps = sorted({f'{r["pretraining"]} + {r["used_steps"]} + {r["steps"]}' for r in found})
        ratio = statistics.mean(r['flops_ratio'] for r in found)
        row = [name, spread(list(accuracy[name].values())), str(len(found)), ', '.join(steps)]
        row += [f'{statistics.mean(r["search_seconds"] for r in found):.0f}', f'{100 * ratio:.2f}%']
        row += ['' if name == mine else paired(accuracy[mine], accuracy[name]) for mine in ours]
        rows.append(row)
    return ['| ' + ' | '.join(row) + ' |' for row in rows]


def _structures(methods):
    rows = []
    for name, found in sorted(methods.items()):
        widths = [r['widths'] for r in found]
        mean = {unit: statistics.mean(w[unit] for w in widths) for unit in widths[0]}
        rows.append(f'- {name}: ' + ', '.join(f'{unit} {width:.1f}' for unit, width in mean.items()))
    return rows


def make_report(records):
    """Markdown: per network, budget and outcome a table of methods, best first, then the mean widths."""
    lines = []
    full = defaultdict(list)
    for record in records:
        if record['method'] == 'full':
            full[record['network']].append(record['accuracy'])
    for name, accuracies in sorted(full.items()):
        lines.append(f'Full {name}: {spread(accuracies)} over {len(accuracies)} seeds.\n')
    structures = {}
    for (network, target, outcome, setting), methods in sorted(aggregate(records).items()):
        title = f'{network} at {target:.0%}: {OUTCOMES.get(outcome, outcome)}'
        lines += [f'### {title} ({setting[0]} steps, {setting[1]} for a search)', '', *_table(methods), '']
        for name, found in methods.items():
            structures.setdefault((network, target, setting), {}).setdefault(name, found)
    for (network, target, setting), methods in sorted(structures.items()):
        title = f'{network} at {target:.0%}, {setting[0]} steps'
        lines += [f'### Mean widths: {title}', '', *_structures(methods), '']
    return '\n'.join(lines)
