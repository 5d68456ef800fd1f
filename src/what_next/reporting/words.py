"""The sentences of the page, each made from the numbers that it states.

Names come from users, so every sentence is `Markup` that was formatted, which escapes them.
"""

from markupsafe import Markup

from what_next.metrics.bootstrap import Interval
from what_next.reporting.attributes import distances
from what_next.reporting.figures import LOG, half, shares
from what_next.reporting.learning import measured
from what_next.reporting.terminal import REFIT, only_training, settings_told
from what_next.reporting.view import UNTRAINED, View, between, counted, number, number_of, percent, spelled, told
from what_next.settings import listed

KINDS = {
    "leave_last_out": "the last event of each user with three or more is left out",
    "time": "all events after one moment are left out",
    "users": "some users are held out completely",
}
TARGETS = {
    "last": "each user's last event of the part",
    "random": "an event of each user's part, drawn at random",
    "successive": "each event of a user's part, one after the other",
    "all": "the set of all items of a user's part",
}
NAME = Markup('<b class="{}">{}</b>')


def name(view: View, policy: str) -> Markup:
    """A policy's name, in its colour."""
    return NAME.format(view.colour(policy), policy)


def sign(difference: Interval) -> int:
    """1 where a difference is above zero beyond chance, -1 where it is below, 0 where the interval holds zero."""
    if difference["low"] <= 0 <= difference["high"]:
        return 0
    return 1 if difference["low"] > 0 else -1


def headline(view: View) -> str:
    """Which policy predicts the next item better, as far as the intervals tell."""
    lead, rival = view.lead, view.rival
    if rival is None:
        return f"How well {lead} predicts what comes next"
    way = sign(view.difference(lead, rival, view.main))
    if way > 0:
        return f"{lead} predicts what comes next better than {rival}, the best of the baselines"
    if way < 0:
        return f"{rival}, a baseline, predicts what comes next better than {lead}"
    return f"{lead} and {rival}, the best of the baselines, cannot be told apart"


def verdict(view: View) -> list[Markup | str]:
    """The verdict in plain words: how often the next item was hit, by which policy, and whether they differ."""
    lead, rival, hits = view.lead, view.rival, f"hr@{view.k}"
    what = "one of the items that came later" if view.result["targets"]["kind"] == "all" else "the next item"
    mine, text = view.policies[lead][hits], Markup("{} names {} within {} for <strong>{}</strong> of users {}")
    hit = text.format(name(view, lead), what, spelled(view.k), percent(mine["mean"]), between(mine, 100, 1))
    if rival is None:
        hit += "."
    else:
        theirs, more = (
            view.policies[rival][hits],
            Markup("; {}, the best of the baselines, for <strong>{}</strong> {}. {}"),
        )
        value = percent(theirs["mean"]), between(theirs, 100, 1)
        hit += more.format(name(view, rival), *value, _points(view.difference(lead, rival, hits)))
    return [hit, _ordered(view), *(_beside(view, other) for other in view.learned if other != lead)]


def _points(difference: Interval) -> str:
    """A difference of shares, and whether it is significant."""
    points = number_of(100 * difference["mean"], 1)
    return f"The difference is {points} points {between(difference, 100, 1)}, {_worth(difference)}."


def _worth(difference: Interval) -> str:
    """Whether a difference is significant."""
    if sign(difference) == 0:
        return "an interval that holds zero: these users do not tell the two apart"
    return "more than chance explains" if sign(difference) > 0 else "worse by more than chance explains"


def _ordered(view: View) -> str:
    """The comparison by the main metric, which counts the place, too, and the gain from training."""
    mine, metric = view.policies[view.lead][view.main], _upper(view.main)
    sentence = f"By {metric}, which counts the place too, it reaches {told(mine)}"
    if view.rival:
        difference = view.difference(view.lead, view.rival, view.main)
        sentence += f" against {number(view.policies[view.rival][view.main]['mean'])}"
        sentence += f": a difference of {told(difference)}, {_worth(difference)}"
    if UNTRAINED in view.policies:
        sentence += f". Before it was trained it reached {number(view.policies[UNTRAINED][view.main]['mean'])}"
    return f"{sentence}."


def _beside(view: View, other: str) -> Markup:
    """Another learned policy compared with the best one."""
    difference = view.difference(other, view.lead, view.main)
    both = name(view, other), name(view, view.lead)
    return Markup("{} differs from {} by {} in {}, {}.").format(
        *both, told(difference), _upper(view.main), _worth(difference)
    )


def by_windows(view: View, sentence: str) -> Markup:
    """The verdict of a policy that is judged by windows, too: the first sentence of that result."""
    text = "{} learned to steer the spread of a history, not to predict what comes next. By windows: {}."
    return Markup(text).format(name(view, view.lead), sentence.partition(" (")[0])


def _upper(metric: str) -> str:
    """`ndcg@10` as it stands in the literature."""
    head, at, cutoff = metric.partition("@")
    return (head.upper() if head in ("hr", "mrr", "ndcg", "map") else head.replace("_", " ")) + at + cutoff


def facts(view: View) -> list[tuple[str, str]]:
    """What was judged: names and values."""
    result, state = view.result, view.comparison.state
    split, targets, dataset = result["split"], result["targets"], state.dataset
    size = f"{counted(dataset.events, 'event')} of {counted(dataset.users, 'user')} on "
    size += counted(len(dataset.catalogue), "item")
    attributes = len(dataset.catalogue.names)
    known = f"with {counted(attributes, 'attribute')}" if attributes else "without attributes"
    sentences = [
        ("Data", f"{result['data']}: {size} {known}"),
        ("Split", f"{split['kind']} ({KINDS[split['kind']]}), hash {split['hash']}{REFIT if split['refit'] else ''}"),
        ("Judged on", f"the {split['part']} part: {counted(targets['rows'], 'target')} of "
                      f"{counted(targets['users'], 'user')}, {TARGETS[targets['kind']]}"),
        ("Counted apart", _apart(view)),
        ("Ranked", _ranked(view)),
        ("Trained", "; ".join(_trained(view, one) for one in view.learned)),
        ("Intervals", "95\N{NO-BREAK SPACE}%, from a bootstrap over users; the seeds of training are averaged first"),
    ]  # fmt: skip
    chosen = (result.get("baselines") or {}).items()
    tuned = [f"{rule} with {settings_told(values)}" for rule, values in chosen if values]
    return sentences + ([("Baselines", "; ".join(tuned))] if tuned else [])


def _trained(view: View, policy: str) -> str:
    setups = view.comparison.setups[policy]
    seeds = f"{'seeds' if len(setups) > 1 else 'seed'} {listed(one.seed for one in setups)}"
    return f"{policy}: {setups[0].algorithm.name} on {setups[0].model}, {seeds}" if setups else policy


def _apart(view: View) -> str:
    """Targets that cannot be reached, cold items and users, and users who are not judged."""
    targets = view.result["targets"]
    kinds = (
        ("held", "target that its history holds already", "targets that their histories hold already"),
        ("cold_items", "target that no training event has", "targets that no training event has"),
        ("cold_users", "user of whom training knows nothing", "users of whom training knows nothing"),
        ("without_history", "user without an event before the target, not judged",
         "users without an event before the target, not judged"),
    )  # fmt: skip
    sentences = [counted(targets[key], one, many) for key, one, many in kinds if targets[key]]
    sentences += [alone] if (alone := only_training(view.result["split"])) else []
    return "; ".join(sentences) or "nobody: every target can be reached, and training knows all users and items"


def _ranked(view: View) -> str:
    """Which items may be recommended, and the cutoffs of the lists."""
    items, allowed = len(view.counts), view.result["allowed"]
    what = "the whole catalogue" if allowed == items else f"the {allowed:,} items that may be recommended"
    again = "may" if view.result["seen"] else "may not"
    cutoffs = listed(view.comparison.evaluator.ks)
    return f"{what}, lists cut at {cutoffs}; items of the history {again} be recommended again"


def learning(view: View, logs: int) -> list[Markup]:
    """What the curves show, and the last validation metrics."""
    if not logs:
        return [Markup("There is no log of training beside the models, so there are no curves.")]
    sentences = [
        Markup("The strong line is a moving mean; each training seed has one of its own, the raw values behind it.")
    ]
    for policy in view.learned:
        ends = [
            f"{listed([f'{_upper(metric)} {number(value)}' for metric, value in valid.items()])} (seed {seed})"
            for seed, valid in measured(view.comparison.setups[policy])
        ]
        if ends:
            sentences.append(Markup("On validation users, {} ended at {}.").format(name(view, policy), "; ".join(ends)))
    return sentences


def nearness(view: View) -> Markup:
    """The distance of recommendations from histories."""
    far = distances(view)
    each = [Markup("one of {} {}").format(name(view, policy), number_of(far[policy], 2)) for policy in view.shown]
    text = (
        "From the middle of its user's history, an item drawn from the catalogue lies {} standard deviations away; {}."
    )
    return Markup(text).format(number_of(far[""], 2), Markup(", ").join(each))


def popularity(view: View) -> list[Markup]:
    """How many items account for half of the recommendations."""
    found = shares(view)
    sentences = [
        Markup("half of what {} recommends, to {}").format(name(view, policy), counted(half(found[policy]), "item"))
        for policy in view.shown
        if policy in found
    ]
    log = Markup("Of {}, half of the log's own events go to the {} most popular; ").format(
        counted(len(view.counts), "item"), f"{half(found[LOG]):,}"
    )
    return [log + Markup("; ").join(sentences) + "."] if LOG in found else []


def calibrated(view: View) -> list[Markup]:
    """The calibration metric, if it was measured."""
    metric = view.metric("calibration")
    if metric is None:
        return []
    sentences = [
        Markup("{} {}").format(name(view, policy), told(one))
        for policy in view.shown
        if (one := view.policies[policy].get(metric)) is not None
    ]
    text = Markup(
        "{}, how far the shares of a user's list diverge from those of the history, is 0 where they are the same: {}."
    )
    return [text.format(_upper(metric), Markup("; ").join(sentences))] if sentences else []
