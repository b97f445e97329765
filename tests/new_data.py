"Five tables of different kinds, none of them made with `mlserve new` in mind"

import csv
from pathlib import Path

import numpy as np
import pandas as pd


def loans(folder):
    "Text and numbers, values missing in four ways, a class that is rare, an id, and a column that gives the answer away"
    rng = np.random.default_rng(11)
    n = 3000
    income = rng.lognormal(10.4, 0.5, n)
    amount = rng.lognormal(9, 0.7, n)
    purpose = rng.choice(["car", "house", "school", "other", "debt"], n, p=[0.3, 0.25, 0.1, 0.15, 0.2])
    risk = 1.5 * np.log(amount / income) + (purpose == "debt") + rng.normal(0, 0.8, n)
    status = np.where(risk > 0.2, "default", np.where(risk > -0.6, "late", "paid"))
    status[rng.choice(n, 6, replace=False)] = "disputed"
    rows = pd.DataFrame(
        {
            "loan_id": [f"L{k:06}" for k in rng.permutation(900_000)[:n]],
            "income": income.round().astype(int).astype(str),
            "amount": amount.round(2),
            "purpose": purpose,
            "branch": [f"branch {k}" for k in rng.geometric(0.02, n)],
            "years_employed": rng.poisson(5, n).astype(float),
            "recovered": np.where(status == "default", (amount * 0.3).round(2), np.nan),
            "status": status,
        }
    )
    rows.loc[rng.random(n) < 0.05, "income"] = "N/A"
    rows.loc[rng.random(n) < 0.1, "years_employed"] = np.nan
    rows.loc[rng.random(n) < 0.03, "purpose"] = ""
    rows.loc[rng.random(n) < 0.01, "status"] = ""
    path = Path(folder, "loans.csv")
    rows.to_csv(path, index=False)
    return path, "status", "multiclass"


def flats(folder):
    "A regression with dates, in the European way of writing numbers"
    rng = np.random.default_rng(12)
    n = 1500
    sold = pd.Timestamp("2019-03-01") + pd.to_timedelta(rng.integers(0, 2000, n), unit="D")
    area = rng.gamma(6, 14, n)
    days = (sold - pd.Timestamp("2019-03-01")).days.to_numpy()
    price = area * (2600 + 0.7 * days) * (1 + 0.05 * np.sin(sold.month.to_numpy() / 12 * 2 * np.pi))
    rows = pd.DataFrame(
        {
            "Verkauft": sold.strftime("%d.%m.%Y"),
            "Fläche": [f"{a:.1f}".replace(".", ",") for a in area],
            "Zimmer": rng.integers(1, 7, n),
            "Lage": rng.choice(["Nord", "Süd", "Ost", "West"], n),
            "Balkon": rng.choice(["ja", "nein"], n),
            "Preis": [f"{p:.2f}".replace(".", ",") for p in price * rng.lognormal(0, 0.1, n)],
        }
    )
    path = Path(folder, "flats.csv")
    rows.to_csv(path, index=False, sep=";", encoding="cp1252")
    return path, "Preis", "regression"


def sensors(folder):
    "Four classes, forty columns of numbers, five of which say something"
    rng = np.random.default_rng(13)
    n = 2000
    kind = rng.integers(1, 5, n)
    signal = rng.normal(0, 1, (n, 40))
    for k in range(5):
        signal[:, 7 * k] += np.where(kind == k % 4 + 1, 1.4, 0)
    rows = pd.DataFrame(signal.round(4), columns=[f"sensor_{k:02}" for k in range(40)])
    path = Path(folder, "sensors.csv")
    rows.assign(fault=kind).to_csv(path, index=False)
    return path, "fault", "multiclass"


UGLY = [
    "Größe (cm)",
    ' "Quoted" name',
    "性別",
    "a,b|c",
    "class",
    "weight $kg$",
    "<b>html</b> & `ticks`",
    "x\ny",
    "Ünïcode'd",
]


def ugly(folder):
    "Names that no one would give to a variable, behind a byte order mark"
    rng = np.random.default_rng(14)
    n = 900
    size = rng.normal(172, 9, n).round(1)
    weight = (size - 100 + rng.normal(0, 9, n)).round(1)
    told = np.where(weight / (size / 100) ** 2 + rng.normal(0, 1.5, n) > 25.5, "Yes ✓", "No 'x'")
    columns = [
        size,
        rng.choice(['say "hi"', "it's", "a;b,c", "back\\slash"], n),
        rng.choice(["男", "女", "其他"], n),
        rng.integers(0, 100, n),
        rng.choice(["def", "None?", "import"], n),
        weight,
        rng.normal(0, 1, n).round(3),
        rng.choice(["one\ntwo", "{{ three }}", "«four»"], n),
        told,
    ]
    path = Path(folder, "ugly data, final (2).csv")
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(UGLY)
        writer.writerows(zip(*columns, strict=True))
    return path, "Ünïcode'd", "binary"


def visits(folder):
    "Parquet with nullable, boolean and categorical columns, and a boolean target with gaps"
    rng = np.random.default_rng(15)
    n = 2500
    age = pd.array(rng.integers(18, 95, n), dtype="Int64")
    age[rng.random(n) < 0.08] = pd.NA
    smoker = pd.array(rng.random(n) < 0.3, dtype="boolean")
    smoker[rng.random(n) < 0.1] = pd.NA
    score = rng.normal(0, 1, n).astype("float32")
    ward = pd.Categorical(
        rng.choice(["A", "B", "C", None], n, p=[0.5, 0.3, 0.15, 0.05]), categories=["A", "B", "C", "D"]
    )
    back = pd.Series(0.04 * (age.to_numpy(dtype=float, na_value=50) - 60) + score + rng.normal(0, 1, n) > 0.5)
    returned = back.astype("boolean").mask(rng.random(n) < 0.02)
    rows = pd.DataFrame(
        {
            "age": age,
            "smoker": smoker,
            "score": score,
            "ward": ward,
            "urgent": rng.random(n) < 0.2,
            "stay": pd.to_timedelta(rng.integers(1, 20, n), unit="D"),
            "returned": returned,
        }
    )
    path = Path(folder, "visits.parquet")
    rows.to_parquet(path, index=False)
    return path, "returned", "binary"


TABLES = {"loans": loans, "flats": flats, "sensors": sensors, "ugly_names": ugly, "visits": visits}
