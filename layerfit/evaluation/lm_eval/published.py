"""Numbers of items in the published test sets: a copy with another number is not the published set."""

NUM_ITEMS: dict[str, int] = {
    "mmlu": 14042,  # test, 57 subjects (arXiv:2009.03300)
    "winogrande": 1267,  # validation (arXiv:1907.10641)
    "hellaswag": 10042,  # validation (arXiv:1905.07830)
    "piqa": 1838,  # validation (arXiv:1911.11641)
    "social_iqa": 1954,  # validation (arXiv:1904.09728)
    "boolq": 3270,  # validation (arXiv:1905.10044)
    "arc_easy": 2376,  # test (arXiv:1803.05457)
    "arc_challenge": 1172,  # test
    "openbookqa": 500,  # test (arXiv:1809.02789)
    "gsm8k": 1319,  # test (arXiv:2110.14168)
    "agieval_aqua_rat": 254,  # arXiv:2304.06364, version 1.1
    "agieval_lsat_ar": 230,
    "agieval_lsat_lr": 510,
    "agieval_sat_math": 220,
    "agieval_mc": 2852,  # our task files, the nine English multiple-choice subsets
    "agieval_mc_by_subset": 2852,
    "agieval_mc_aqua_rat": 254,
    "agieval_mc_gaokao_english": 306,
    "agieval_mc_logiqa_en": 651,
    "agieval_mc_lsat_ar": 230,
    "agieval_mc_lsat_lr": 510,
    "agieval_mc_lsat_rc": 269,
    "agieval_mc_sat_en": 206,
    "agieval_mc_sat_en_without_passage": 206,
    "agieval_mc_sat_math": 220,
}
