"""Train and judge another library's model on a log's leave-one-out split: one JSON line. Does not need What Next?.

Each library has an environment of its own, where bench_peers.py and bench_rank.py look for it:

    python3 -m venv ~/.cache/peers/rectools && ~/.cache/peers/rectools/bin/pip install 'rectools[torch]>=0.19'
    python3 -m venv ~/.cache/peers/recbole && ~/.cache/peers/recbole/bin/pip install \
        recbole==1.2.1 'setuptools<81' 'pandas<2.2' 'numpy<2' 'scipy<1.12'

The log is a CSV of `user,item`, with each user's events in order. The last event of each user is the test target, the
one before it the validation target; the whole catalogue is ranked, except for the user's items.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch


def sasrec(log: pd.DataFrame, epochs: int) -> dict[str, Any]:
    """SASRec of RecTools: dim 64, two blocks, the latest 200 events, softmax over the whole catalogue."""
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    def dataset(rows: pd.DataFrame) -> Any:
        when = pd.Timestamp("2000-01-01") + pd.to_timedelta(rows.index.to_numpy(), unit="s")
        named = rows[["user", "item"]].rename(columns={"user": "user_id", "item": "item_id"})
        return Dataset.construct(named.assign(weight=1.0, datetime=when))

    known, targets = log[log.after >= 1], log[log.after == 0]
    model = SASRecModel(n_factors=64, n_blocks=2, n_heads=1, session_max_len=200, epochs=epochs, loss="softmax",
                        batch_size=128, lr=1e-3, recommend_torch_device="cpu", verbose=0)  # fmt: skip
    start = time.perf_counter()
    model.fit(dataset(log[log.after >= 2]))
    trained = time.perf_counter()
    ranked = model.recommend(users=targets.user.to_numpy(), dataset=dataset(known), k=10, filter_viewed=True)
    judged = time.perf_counter()
    hits = ranked.merge(targets, left_on=["user_id", "item_id"], right_on=["user", "item"])["rank"]
    ndcg = float((1 / np.log2(hits + 1)).sum() / len(targets))
    return {
        "seconds": trained - start,
        "targets": int((log[log.after >= 2].groupby("user").size() - 1).clip(upper=200).sum()),
        "users_per_s": len(targets) / (judged - trained),
        "ndcg@10": ndcg,
    }


def gru4rec(log: pd.DataFrame, epochs: int) -> dict[str, Any]:
    """GRU4Rec of RecBole: its defaults, the latest 50 events, cross entropy; judged once, at the end."""
    from recbole.quick_start import run_recbole

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "log").mkdir()
        named = log[["user", "item"]].rename(columns={"user": "user_id:token", "item": "item_id:token"})
        order = {"timestamp:float": range(len(log))}
        named.assign(**order).to_csv(Path(folder) / "log" / "log.inter", sep="\t", index=False)
        start = time.perf_counter()
        found = run_recbole(
            model="GRU4Rec",
            dataset="log",
            saved=False,
            config_dict={
                "data_path": folder,
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "use_gpu": False,
                "show_progress": False,
                "epochs": epochs,
                "eval_step": epochs,
                "train_batch_size": 2048,
                "eval_batch_size": 4096,
                "train_neg_sample_args": None,
                "loss_type": "CE",
                "MAX_ITEM_LIST_LENGTH": 50,
                "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
                "metrics": ["NDCG"],
                "topk": [10],
                "valid_metric": "NDCG@10",
            },
        )
        seconds = time.perf_counter() - start
    targets = int((log.after >= 2).sum()) - log.user.nunique()  # the first event is not a target
    return {"seconds": seconds, "targets": targets, "ndcg@10": found["test_result"]["ndcg@10"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["rectools", "recbole"])
    parser.add_argument("log", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    torch.manual_seed(0)
    log = pd.read_csv(wanted.log)
    log["after"] = log.groupby("user").cumcount(ascending=False)
    found = {"rectools": sasrec, "recbole": gru4rec}[wanted.peer](log, wanted.epochs)
    print(json.dumps({**found, "targets_per_s": found["targets"] * wanted.epochs / found["seconds"]}))


if __name__ == "__main__":
    main()
