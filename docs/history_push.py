"""Push each test case to a central Elasticsearch or Grafana Loki. ReFrame configuration, given after that of the site:

    export MLPERF_DET_ELASTIC=https://elastic.example.org:9200/mlperf-det/_doc MLPERF_DET_ELASTIC_KEY=/etc/keys/elastic
    export MLPERF_DET_LOKI=http://loki.example.org:3100/loki/api/v1/push
    reframe -C systems/mysite/site.py -C docs/history_push.py -c checks/ -r

history-push.md says what is sent and what happens when nobody listens.
"""

import datetime
import json
import math
import os
import pathlib

from mlperf_det.rfm.site_defaults import LOGGING

#: What ReFrame records of a case -> its name in the document; what a check does not have is left out.
FIELDS = {
    'check_display_name': 'case', 'check_short_name': 'check', 'check_result': 'result', 'check_system': 'system',
    'check_partition': 'partition', 'check_environ': 'environment', 'check_job_nodelist': 'nodes', 'check_jobid': 'job',
    'check_tags': 'tags', 'check_benchmark': 'benchmark', 'check_tier': 'tier', 'check_recipe': 'recipe',
    'check_seed': 'seed', 'check_container_image': 'image', 'check_run_facts': 'facts',
    'check_reference_not_needed': 'reference_not_needed', 'check_fail_phase': 'fail_phase',
    'check_fail_reason': 'fail_reason', 'version': 'reframe', 'hostname': 'host', 'osuser': 'user',
}


def document(record, extras):
    """Return a test case as plain values: what ran where, how it ended, each metric, and what it was held against."""
    metrics = {}
    for name, (value, reference, low, high, unit, result) in (record.check_perfvalues or {}).items():
        metrics[name.rpartition(':')[2]] = {'value': number(value), 'unit': unit, 'reference': number(reference),
                                            'low': number(low), 'high': number(high), 'result': result}
    found = {name: getattr(record, attribute, None) for attribute, name in FIELDS.items()}
    return {'time': ended(record), **{name: value for name, value in found.items() if value not in (None, '', [])},
            'metrics': metrics, **(extras or {})}


def number(value):
    """Return a number, or None for what JSON cannot say (NaN and infinities)."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def ended(record):
    """Return when the job ended; of a case without a job, when it is reported. Unix seconds."""
    return getattr(record, 'check_job_completion_time_unix', None) or record.created


def for_elastic(record, extras, ignore_keys):
    """Return the body of one document of an index."""
    found = document(record, extras)
    moment = datetime.datetime.fromtimestamp(found['time'], datetime.timezone.utc)
    return json.dumps({'@timestamp': moment.isoformat(), **found}, default=str)


def for_loki(record, extras, ignore_keys):
    """Return one entry of a stream: few labels, each with few values, and the document as the line."""
    found = document(record, extras)
    labels = {'job': 'mlperf-det', **{name: str(found[name]) for name in ('system', 'partition', 'result')
                                      if name in found}}
    line = json.dumps(found, default=str)
    return json.dumps({'streams': [{'stream': labels, 'values': [[str(round(found['time'] * 1e9)), line]]}]})


def elastic_key():
    """Return the header that Elasticsearch wants; the key is read for each record, so it may be renewed."""
    return 'ApiKey ' + pathlib.Path(os.environ['MLPERF_DET_ELASTIC_KEY']).read_text().strip()


def handlers():
    """Return the handlers of the places that the environment names."""
    common = {'type': 'httpjson', 'level': 'info', 'extras': {'site': os.environ.get('MLPERF_DET_SITE', '')}}
    if elastic := os.environ.get('MLPERF_DET_ELASTIC'):
        key = {'authorization_header': elastic_key} if 'MLPERF_DET_ELASTIC_KEY' in os.environ else {}
        yield {**common, 'url': elastic, 'json_formatter': for_elastic, 'retry_timeout': 30, **key}
    if loki := os.environ.get('MLPERF_DET_LOKI'):
        yield {**common, 'url': loki, 'json_formatter': for_loki, 'retry_timeout': 30}


site_configuration = {
    # What the site writes to files stays: a second configuration replaces the list of handlers.
    'logging': [{**LOGGING[0], 'handlers_perflog': [*LOGGING[0]['handlers_perflog'], *handlers()]}],
}
