"""Vendor configuration files: read without running anything, translated field by field."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlperf_det.errors import UserError
from mlperf_det.recipes.load import builtin_recipes, check, override
from mlperf_det.recipes.shell_file import read_shell_file
from mlperf_det.recipes.vendor_config import recipe_fields

SSD = """
## data
export BATCHSIZE=114
export NUMEPOCHS=${NUMEPOCHS:-65}
export EXTRA_PARAMS='--lr-warmup-epoch=3 --lr=0.003157 --weight-decay=1.3e-4 --dali-workers=4'
export NEXP=5
export PGNNODES=1
export PGSYSTEM=$(basename $(readlink -f ${BASH_SOURCE[0]}) | sed 's/^config_//' | sed 's/\\.sh$//' )
WALLTIME_MINUTES=20
export WALLTIME=$((${NEXP} * ${WALLTIME_MINUTES}))
export PASSWORD=hunter2
export PGNGPU=4
export PGHT=2         # HT is on is 2, HT off is 1
"""

RETINANET = """#!/bin/bash
source $(dirname ${BASH_SOURCE[0]})/config_common.sh
export BATCHSIZE=${BATCHSIZE:-64}
export LR=${LR:-0.000085}
export WARMUP_EPOCHS=${WARMUP_EPOCHS:-0}
export EXTRA_PARAMS=${EXTRA_PARAMS:-'--jit --cuda-graphs --eval-batch-size=32'}
export DGXNNODES=1
export WALLTIME_RUNANDTIME=53
export WALLTIME=$((9 + ${NEXP:-1} * ($WALLTIME_RUNANDTIME + 3)))
export DGXNGPU=4
"""

MASKRCNN = """
EXTRA_CONFIG=(
    "SOLVER.BASE_LR"       "0.16"
    "SOLVER.MAX_ITER"      "40000"
    "SOLVER.WARMUP_FACTOR" "0.000256"
    "SOLVER.WARMUP_ITERS"  "625"
    "SOLVER.STEPS"         "\\"(9000, 12000)\\""
    "SOLVER.IMS_PER_BATCH" "128"
    "TEST.IMS_PER_BATCH"   "64"
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN" "4000"
    "NHWC" "True"
    "DATALOADER.NUM_WORKERS" "1"
)
export DGXNNODES=4
export DGXNGPU=8
export WALLTIME=04:00:00
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_ssd(tmp_path: Path) -> None:
    config = read_shell_file(write(tmp_path, 'config_PG.sh', SSD))
    assert (config.variables['PGSYSTEM'], config.variables['WALLTIME'], config.variables['PGHT']) == ('PG', '100', '2')
    assert 'PASSWORD' not in config.variables
    fields, notices = recipe_fields(config, 'ssd')
    assert fields == {
        'nodes': 1, 'accelerators_per_node': 4, 'local_batch_size': 114, 'eval_batch_size': 114, 'epochs': 65,
        'experiments': 5, 'walltime_minutes': 20, 'warmup_epochs': 3, 'learning_rate_per_32': 0.003157,
        'weight_decay': 1.3e-4}
    assert any('PASSWORD looks like a secret' in notice for notice in notices)
    assert any('--dali-workers 4 has no counterpart' in notice for notice in notices)
    assert not any('hunter2' in notice for notice in notices)


def test_retinanet_with_sourced_file_and_defaults(tmp_path: Path) -> None:
    write(tmp_path, 'config_common.sh', 'export NUMEPOCHS=8\n')
    config = read_shell_file(write(tmp_path, 'config_H100.sh', RETINANET), environment={'BATCHSIZE': '32'})
    fields, notices = recipe_fields(config, 'retinanet')
    assert fields == {'nodes': 1, 'accelerators_per_node': 4, 'local_batch_size': 32, 'eval_batch_size': 32,
                      'epochs': 8, 'walltime_minutes': 53, 'base_learning_rate': 8.5e-5, 'warmup_epochs': 0}
    assert config.variables['WALLTIME'] == '65'
    assert len(notices) == 2


def test_maskrcnn_gives_a_legal_recipe(tmp_path: Path) -> None:
    fields, notices = recipe_fields(read_shell_file(write(tmp_path, 'config_x.sh', MASKRCNN)), 'maskrcnn')
    assert fields['decay_steps'] == [9000, 12000]
    assert (fields['local_batch_size'], fields['eval_batch_size'], fields['epochs']) == (4, 2, 43)
    assert fields['walltime_minutes'] == 240
    assert [notice for notice in notices if 'NHWC True' in notice]
    recipe = override(builtin_recipes('maskrcnn')['nvidia-4x8x4'], [f'{k}={v}' for k, v in fields.items()])
    check(recipe)
    assert recipe.runtime.loader_workers == 1


def test_the_variables_of_the_older_launchers(tmp_path: Path) -> None:
    text = """
    ## DL params
    EXTRA_PARAMS=(
                   --batch-size      "120"   # of one GPU
                   --eval-batch-size "160"
                   --warmup          "650"
                   --lr              "2.92e-3"
                   --wd              "1.6e-4"
                   --use-fp16
                 )
    ## System run parms
    export DGXNNODES=1 DGXNGPU=8; export DGXSYSTEM=$(basename $(readlink -f ${BASH_SOURCE[0]}))
    WALLTIME=0-01:00:00
    DGXNSOCKET=2
    DGXSOCKETCORES=20
    DGXHT=2         # HT is on is 2, HT off is 1
    export CONT="registry.example/ssd:1"
    export SLURM_OTHER=1
    export NEXP=5
    """
    fields, notices = recipe_fields(read_shell_file(write(tmp_path, 'config_DGX1.sh', text)), 'ssd')
    assert fields == {'nodes': 1, 'accelerators_per_node': 8, 'local_batch_size': 120, 'eval_batch_size': 160,
                      'experiments': 5, 'walltime_minutes': 12, 'learning_rate_per_32': 2.92e-3, 'weight_decay': 1.6e-4,
                      'warmup_epochs': pytest.approx(650.5 * 960 / 117266, abs=1e-6)}
    recipe = override(builtin_recipes('ssd')['nvidia-1x8x114'], [f'{k}={v}' for k, v in fields.items()])
    assert recipe.warmup_steps(117266) == 650  # type: ignore[attr-defined]
    told = '\n'.join(notices)
    for part in ('DGXSOCKETCORES=20: sockets and cores are read from the node', 'CONT is read by `mlperf-det sbatch`',
                 'SLURM_OTHER has no counterpart', '--use-fp16 has no counterpart'):
        assert part in told
    assert 'DGXSYSTEM' not in told


@pytest.mark.parametrize('line', [
    "X='$(touch pwned) # ${HOME}'", 'X="a \\"b\\" c"', 'X="\\$HOME \\\\ \\`x\\` \\n"', 'X=a\\ b', 'X=1 # note',
    "X=a'b c'\"d\"", 'X=${NONE:-${NEXP:-3}}', 'Y=2; X=${Y:-$(touch pwned)}', 'X=$((2 * (3 + 4) % 5))', 'X=',
    'export X=5 Y=6', 'Y=6; X=5', 'Y="a b"; X="<$Y|${Y}|${Z-c}>"'])
def test_values_are_those_that_a_shell_sets(tmp_path: Path, line: str) -> None:
    shell = subprocess.run(['bash', '--norc', '-c', f'{line}\nprintf %s "$X"'], capture_output=True, text=True,
                           check=True, cwd=tmp_path, env={'PATH': '/usr/bin:/bin'})
    found = read_shell_file(write(tmp_path, 'config_x.sh', line + '\n'))
    assert (found.variables['X'], found.notices) == (shell.stdout, ())


CONDITIONS = """
if [[ "${SMALL:-0}" == 1 ]]; then
  export BATCHSIZE=1
  for n in 1 2; do export NEXP=$n; done
else
  export BATCHSIZE=2
fi
if true; then export NEXP=3; fi
helper() {
  export DGXNGPU=99
}
function other
{
  case $X in
    a) DGXNNODES=98 ;;
  esac
}
export LR=0.003 NAME="if; fi"
"""


def test_what_depends_on_more_than_the_file_is_left_out_and_told(tmp_path: Path) -> None:
    found = read_shell_file(write(tmp_path, 'config_x.sh', CONDITIONS))
    assert found.variables == {'LR': '0.003', 'NAME': 'if; fi'}
    told = '\n'.join(found.notices)
    for part in ('BATCHSIZE=1', 'NEXP=$n', 'BATCHSIZE=2', 'NEXP=3', 'DGXNGPU=99', 'DGXNNODES=98'):
        assert part in told


@pytest.mark.parametrize('value', ['${Y:=5}', '"${Y%/*}"', '${#Y}', '${Y:+6}', '"a${Y/b/c}"', '${Y:-${Z:=5}}'])
def test_a_reference_of_another_form_is_left_out_and_told(tmp_path: Path, value: str) -> None:
    found = read_shell_file(write(tmp_path, 'config_x.sh', f'X={value}\n'))
    assert 'X' not in found.variables
    assert 'is not understood, left out' in found.notices[0]


@pytest.mark.parametrize(('walltime', 'minutes'), [
    ('90', 90), ('90:00', 90), ('01:30:00', 90), ('1-06', 1800), ('1-06:30', 1830), ('1-06:30:00', 1830)])
def test_time_limits_have_slurms_forms(tmp_path: Path, walltime: str, minutes: int) -> None:
    text = f'export BATCHSIZE=4 DGXNNODES=1 DGXNGPU=8 WALLTIME={walltime}\n'
    fields, _ = recipe_fields(read_shell_file(write(tmp_path, 'config_x.sh', text)), 'ssd')
    assert fields['walltime_minutes'] == minutes


HOSTILE = ('export X=$(touch pwned)', 'export X=`touch pwned`', 'touch pwned', 'X="$(touch pwned)"',
           'source $(touch pwned)', 'X=$((__import__("os").system("touch pwned")))', 'X=1 touch pwned',
           'X=1 && touch pwned', 'X=1 | touch pwned', 'X=${Y:-$(touch pwned)}', 'X=${Y:-`touch pwned`}',
           'eval touch pwned', 'X=<(touch pwned)', 'X=(1 $(touch pwned))', 'X=$((9**9**9))', 'X=$((1/0))',
           'X=$((a[$(touch pwned)]))', 'function BATCHSIZE { touch pwned; }', 'X=1;touch pwned', 'source /dev/zero')


@pytest.mark.parametrize('line', HOSTILE)
def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_shell_file(write(tmp_path, 'config_evil.sh', line + '\n'))
    assert not (tmp_path / 'pwned').exists()
    assert config.notices
    assert config.variables.get('X') in (None, '1')


@pytest.mark.parametrize(('text', 'message'), [
    ('export BATCHSIZE=4\n', 'says nothing of nodes, accelerators_per_node'),
    ('export BATCHSIZE=four\nexport DGXNNODES=1\nexport DGXNGPU=1\n', "config_x.sh: 'four' is not a number"),
    ('export BATCHSIZE=nan\n', "'nan' is not a number"), ('export DGXNNODES=0\n', 'must be positive'),
    ('export WALLTIME=UNLIMITED\n', 'WALLTIME=UNLIMITED is no time limit'),
    ("export EXTRA_PARAMS=\"--lr='1\"\n", 'No closing quotation'),
    ('export X="1\n' + 'Y=2\n' * 3000, 'a quote or a bracket is not closed'),
    ('X=xxxxxxxxxx\n' + 'X=$X$X$X$X$X$X$X$X\n' * 60, 'X: longer than 10000 characters'),
    ('#' * 100_001, 'larger than 100000 bytes'),
])
def test_what_is_missing_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_fields(read_shell_file(write(tmp_path, 'config_x.sh', text)), 'ssd')


def test_a_file_that_sources_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='sources itself'):
        read_shell_file(write(tmp_path, 'config_x.sh', 'source ${BASH_SOURCE%/*}/config_x.sh\n'))
    with pytest.raises(UserError, match='cannot be read'):
        read_shell_file(tmp_path / 'none.sh')


def test_files_that_source_each_other_without_end_are_refused(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path, f'config_{number}.sh', f'source config_{number + 1}.sh\n' * 2)
    write(tmp_path, 'config_10.sh', 'X=1\n')
    with pytest.raises(UserError, match='more than 20 files are sourced'):
        read_shell_file(tmp_path / 'config_0.sh')


@pytest.mark.parametrize('benchmark', ['ssd', 'retinanet', 'maskrcnn'])
@given(lines=st.lists(st.one_of(
    st.sampled_from(HOSTILE),
    st.builds('export {}={}'.format, st.sampled_from(
        ['BATCHSIZE', 'DGXNNODES', 'DGXNGPU', 'NEXP', 'WALLTIME', 'LR', 'EXTRA_PARAMS', 'EXTRA_CONFIG', 'NUMEPOCHS']),
        st.text(alphabet='0123456789.:-eE"\'$(){} #\\\n', max_size=12))), max_size=8))
def test_any_text_is_translated_or_refused(benchmark: str, lines: list[str],
                                           tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.getbasetemp(), 'config_any.sh', '\n'.join(lines))
    try:
        fields, _ = recipe_fields(read_shell_file(path), benchmark)
        override(next(iter(builtin_recipes(benchmark).values())), [f'{key}={value}' for key, value in fields.items()])
    except UserError:
        return
    assert not (Path.cwd() / 'pwned').exists()
