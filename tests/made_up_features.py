"""A made-up data set with attributes: two towns, two kinds of items, and a kind for each town."""

import numpy as np


def write_made_up(folder, *, num_users=60, num_items=40):
    """Write plays.csv, people.csv and things.csv; nobody plays the last item."""
    rng = np.random.default_rng(0)
    town, kind = np.arange(num_users) % 2, np.arange(num_items - 1) % 2
    users, items = np.nonzero(
        rng.random((num_users, num_items - 1)) < np.where(town[:, None] == kind, 0.5, 0.05)
    )
    rows = zip(users, items, 100 * items + users, strict=True)
    (folder / "plays.csv").write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    people = "".join(f"{user},{'xy'[user % 2]},{20 + user}\n" for user in range(num_users))
    (folder / "people.csv").write_text("user,town,age\n" + people)
    things = "".join(f"{item},{'pq'[item % 2]}\n" for item in range(num_items))
    (folder / "things.csv").write_text("item,kind\n" + things)
