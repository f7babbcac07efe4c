"""Test a checkpoint with the evaluators of its config."""

import argparse

import mmengine
from mmengine.evaluator import DumpResults
from mmengine.model import is_model_wrapper

import mmdms  # noqa: F401  (checks the versions of the packages below first)
from mmdms.openmmlab.checkpoints import check_state_dict, is_remote, read_checkpoint
from mmdms.openmmlab.cli import run_cli
from mmdms.openmmlab.configs import load_config, require_keys
from mmdms.openmmlab.launch import add_runner_arguments, apply_runner_arguments, build_runner


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of a config, or a name such as mmpretrain::resnet/resnet50_8xb32_in1k.py')
    parser.add_argument('checkpoint', help='path or URL of a checkpoint')
    add_runner_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='test in mixed precision')
    parser.add_argument('--out', metavar='FILE', help='write the results to FILE (.pkl, or also .json for metrics)')
    parser.add_argument(
        '--out-item', choices=['metrics', 'pred'], default='pred', help='what --out writes; default: predictions'
    )
    args = parser.parse_args()
    suffixes = ('.pkl', '.pickle') if args.out_item == 'pred' else ('.pkl', '.pickle', '.json', '.yaml', '.yml')
    if args.out and not args.out.endswith(suffixes):
        parser.error(
            f'--out {args.out!r}: with --out-item {args.out_item} the name ends in one of {", ".join(suffixes)}'
        )
    return args


def main() -> None:
    """Build the Runner and test."""
    args = parse_args()
    config = load_config(args.config, args.cfg_options)
    require_keys(config, ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'), 'test')
    # A config of a training in progress may set it; a test loads the weights and nothing else.
    config.resume = False
    config.load_from = args.checkpoint
    # A local file is checked before anything is written; a URL when the processes can agree on who downloads it.
    checkpoint = None if is_remote(args.checkpoint) else read_checkpoint(args.checkpoint)
    apply_runner_arguments(config, args)
    if args.amp:
        config.test_cfg.fp16 = True

    runner = build_runner(config)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    checkpoint = checkpoint or read_checkpoint(args.checkpoint)
    check_state_dict(model, checkpoint['state_dict'], args.checkpoint)
    del checkpoint
    if args.out and args.out_item == 'pred':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    if args.out and args.out_item == 'metrics' and runner.rank == 0:
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    run_cli(main)
