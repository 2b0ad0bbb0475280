"""The rules of a check: each compares a claim with one passage, and all must hold.

A claim may leave things out, and may not add any. Where leaving out changes what is said ("basic", "not",
"helped to"), it may not. What words alone do not show stays a limit: docs/use/resume.md names it.
"""

from collections.abc import Callable

from dub5.service.grounding import binding_rules, number_rules, period_rules, subject_rules, word_rules
from dub5.service.grounding.claims import StatementClaim
from dub5.service.grounding.support import Support

CheckRule = Callable[[StatementClaim, Support], bool]
RULES: tuple[CheckRule, ...] = (
    word_rules.keeps_negation,
    word_rules.adds_no_word,
    word_rules.keeps_weakeners,
    period_rules.keeps_ends_of_periods,
    period_rules.gives_own_entry_no_year_of_its_period,
    period_rules.keeps_time,
    number_rules.counts_the_same,
    number_rules.keeps_names_in_order,
    binding_rules.keeps_to_a_clause,
    binding_rules.keeps_pairs,
    binding_rules.keeps_what_is_only_tried,
    binding_rules.keeps_compound_numbers,
    binding_rules.keeps_relations,
    binding_rules.keeps_brackets_together,
    subject_rules.keeps_its_subject,
    subject_rules.keeps_subject_before_its_verb,
    subject_rules.keeps_who_did_it,
    subject_rules.is_not_of_somebody_else,
    subject_rules.keeps_place_of_work,
    subject_rules.keeps_title_apart,
)
