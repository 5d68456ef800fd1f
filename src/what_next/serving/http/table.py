"""All requests with a body, by path, with examples for the schema."""

from typing import Any

from what_next.serving.http import bodies, replies
from what_next.serving.http import posts as do
from what_next.serving.http.posts import Post

READ, WRITE, ADMIN = range(3)

EVENT = {
    "event_id": "web-7f3a91",
    "user_id": "u1",
    "item_id": "i1",
    "event": "play",
    "timestamp": "2026-11-25T10:00:00Z",
    "reward": 1.0,
}
FEEDBACK = {"feedback_id": "web-7f3a92", "recommendation_id": "0199a1b2c3d4", "item_id": "i1", "reward": 1.0}
QUESTION = {"user_id": "u1", "k": 10}
ANSWER: dict[str, Any] = {
    "recommendation_id": "0199a1b2c3d4",
    "user_id": "u1",
    "items": [{"item_id": "i7", "title": "Blue in Green", "score": 3.2, "propensity": 1.0, "reason": None}],
    "model": {"version": "4f1c09d2a7be6035-40000-9d2e61b0", "role": "current"},
    "policy": "trained",
    "fallback": None,
    "unknown": [],
    "known_events": 42,
    "spread": 1.31,
}
KEPT = {"accepted": 1, "duplicates": 0, "unknown_items": [], "unmatched": [], "erased": []}
SONG = {"item_id": "i1001", "title": "So What", "attributes": {"energy": 0.3, "tempo": 136.0}}
OTHER = "there is another one under this id"

POSTS = {
    post.path: post
    for post in (
        Post(
            path="/v1/recommendations",
            role=READ,
            body=bodies.Question,
            reply=replies.Recommendations,
            status=200,
            answer=do.recommend,
            name="recommend",
            about=do.recommend.__doc__ or "",
            examples={
                "user": QUESTION,
                "history": {"history": ["i1", "i2"], "k": 5, "explain": True},
                "masked": {
                    "user_id": "u1",
                    "blocked": ["i9"],
                    "ranges": {"year": {"min": 1990, "max": 2000}},
                    "explore": {"temperature": 0.5},
                    "seed": 7,
                },
            },
            answered=ANSWER,
            asks=True,
        ),
        Post(
            path="/v1/recommendations/batch",
            role=READ,
            body=bodies.Questions,
            reply=replies.RecommendationsBatch,
            status=200,
            answer=do.recommend_batch,
            name="recommendBatch",
            about=do.recommend_batch.__doc__ or "",
            examples={"two": {"requests": [QUESTION, {"history": ["i1"], "policy": "popular"}]}},
            answered={"answers": [ANSWER]},
            asks=True,
        ),
        Post(
            path="/v1/events",
            role=WRITE,
            body=bodies.Event,
            reply=replies.EventsKept,
            status=201,
            answer=do.add_event,
            name="addEvent",
            about=do.add_event.__doc__ or "",
            examples={"play": EVENT},
            answered=KEPT,
            refuses={409: OTHER},
        ),
        Post(
            path="/v1/events/batch",
            role=WRITE,
            body=bodies.Events,
            reply=replies.EventsKept,
            status=201,
            answer=do.add_events,
            name="addEvents",
            about=do.add_events.__doc__ or "",
            examples={"two": {"events": [EVENT, {**EVENT, "event_id": "web-7f3a93", "event": "skip", "reward": None}]}},
            answered={**KEPT, "accepted": 2},
            refuses={409: OTHER},
        ),
        Post(
            path="/v1/feedback",
            role=WRITE,
            body=bodies.Feedback,
            reply=replies.FeedbackKept,
            status=201,
            answer=do.add_feedback,
            name="addFeedback",
            about=do.add_feedback.__doc__ or "",
            examples={"liked": FEEDBACK},
            answered={"accepted": 1, "duplicates": 0},
            refuses={404: "the recommendation is not known", 409: OTHER},
        ),
        Post(
            path="/v1/feedback/batch",
            role=WRITE,
            body=bodies.Feedbacks,
            reply=replies.FeedbackBatchKept,
            status=201,
            answer=do.add_feedbacks,
            name="addFeedbacks",
            about=do.add_feedbacks.__doc__ or "",
            examples={"one": {"feedback": [FEEDBACK]}},
            answered={"accepted": 1, "duplicates": 0, "refused": []},
        ),
        Post(
            path="/v1/items",
            role=ADMIN,
            body=bodies.Item,
            reply=replies.ItemsKept,
            status=201,
            answer=do.add_item,
            name="addItem",
            about=do.add_item.__doc__ or "",
            examples={"song": SONG},
            answered={"accepted": 1, "replaced": 0},
        ),
        Post(
            path="/v1/items/batch",
            role=ADMIN,
            body=bodies.Items,
            reply=replies.ItemsKept,
            status=201,
            answer=do.add_items,
            name="addItems",
            about=do.add_items.__doc__ or "",
            examples={"two": {"items": [SONG, {**SONG, "item_id": "i1002", "title": "Blue in Green"}]}},
            answered={"accepted": 2, "replaced": 0},
        ),
    )
}
