"""The patterns of prompt injections, by flag. They are matched against text as `injection.fold` returns it.

Each repeat is bounded, and those inside another are possessive: there is one way to match them. So the work
grows with the length of the text, whatever it says.
"""

import re
from collections.abc import Mapping, Sequence


def _one_of(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


def _pattern(*parts: str) -> re.Pattern[str]:
    return re.compile("".join(parts))


_WORD = r"[\w'-]{1,24}+[ ,:\n]{1,2}+"  # one word and what follows it
_WORDS = rf"(?:{_WORD}){{0,5}}"
_NOT_OWN = rf"(?:(?!(?:i|my|me|we|our)\b){_WORD}){{0,5}}"  # people may take back their own words
_FEW = r"(?:[\w-]{1,20}+ ){0,3}"
_AND = r"[ ,:\n]{1,2}+"

_IGNORE = r"\b" + _one_of(
    r"ignor(?:e|ing)|disregard(?:ing)?|forget|overrid(?:e|ing)|overrule|bypass(?:ing)?|circumvent|neglect",
    r"abandon|never mind|pay no attention to",
    r"(?:do not|don't|stop) (?:follow|following|obey|obeying|apply)",
)
_RULES = _one_of(
    r"instruct?i?ons?|instruction texts?|directions?|directives?|guidelines?|guidance|rules|prompts?",
    r"commands?|orders|polic(?:y|ies)|assignments?|tasks?|restrictions?|safeguards?|filters|moderation",
    r"role|programming|training",
)
_GIVEN = _one_of(
    r"all|any|every|your|these|those|prev\w{0,6}|prior|earlier|above|preceding|initial|original|safety",
    r"current|content|company",
)
_BEFORE = r"(?:above|before|earlier|previously|prior|until now|so far)"
_NO_LONGER = r"(?:cancell?ed|revoked|void|no longer (?:valid|apply|applies)|disabled|lifted)"

_GERMANIC = (
    _one_of(r"ignorier\w{0,4}|vergiss|vergesst|missachte\w{0,2}|übergeh\w{0,3}|negeer|vergeet"),
    _one_of(
        r"anweisung\w{0,2}|instruktion\w{0,2}|regeln|vorgaben|aufgaben|befehle|prompts?",
        r"instructies|regels|opdrachten",
    ),
)
_ROMANCE = (
    _one_of(
        r"ignor(?:e[rz]?|a|ad)|oublie[rz]?|ne (?:tiens|tenez) pas compte|olvid(?:a|e|ad)|omite",
        r"haz caso omiso|dimentica|trascura|esqueça|desconsidere",
    ),
    _one_of(
        r"instructions|consignes|règles|directives|instrucciones|reglas|indicaciones|órdenes|istruzioni",
        r"regole|indicazioni|instruções|regras|todo lo anterior|tudo o que foi dito|tout ce qui précède",
    ),
)
_SLAVIC = (
    _one_of(r"zignoruj|ignoruj|zapomnij|(?:про)?игнорируй(?:те)?|забудь(?:те)?"),
    _one_of(r"polece\w{1,4}|instrukcj\w{1,3}|zasad\w{0,3}|инструкци\w{1,3}|указани\w{1,3}|правил\w{0,3}"),
)

_OVERRIDE = (
    _pattern(_IGNORE, _AND, _NOT_OWN, _GIVEN, _AND, _NOT_OWN, _RULES, r"\b"),
    _pattern(_IGNORE, _AND, _NOT_OWN, _RULES, r"\b ", _BEFORE),
    _pattern(
        r"\b(?:leave|drop|put)", _AND, _WORDS, r"(?:your|all previous|prior|earlier) ", _FEW, _RULES, r"\b"
    ),
    _pattern(
        r"\b(?:drop|leave|forget) the (?:role|assignment|task) (?:that |which )?you (?:were|have|got)\b"
    ),
    _pattern(
        _IGNORE,
        _AND,
        r"(?:about )?(?:everything|anything|all|what(?:ever)?|the (?:text|above|words))",
        _AND,
        _NOT_OWN,
        rf"(?:{_BEFORE}|told|and)\b",
    ),
    _pattern(r"\b", _GIVEN, _AND, _WORDS, _RULES, r"\b", _AND, _WORDS, _NO_LONGER, r"\b"),
    _pattern(
        r"\b(?:rules|instructions|policy|prompt)(?: from)? (?:above|the beginning|before) ",
        _WORDS,
        r"(?:void|not exist|not apply|a test)\b",
    ),
    _pattern(r"\b(?:old|previous|earlier) (?:instructions|rules) ", _WORDS, _WORDS, r"no longer\b"),
    _pattern(r"\byour new (?:task|goal|instructions?|role|purpose) (?:is|are)\b"),
    _pattern(r"\bnew (?:instructions?|rules) (?:from (?:your|the)|apply to you)\b"),
    _pattern(r"\byou have a new (?:goal|task|master)\b"),
    _pattern(r"\b", _GERMANIC[0], _AND, _WORDS, _GERMANIC[1], r"\b"),
    _pattern(
        r"\b(?:vergiss|ignorier\w{0,4}|missachte\w{0,2}),? (?:alles, )?(?:was|alles) ",
        r"(?:bisher|oben|davor|vorher)",
    ),
    _pattern(r"\b", _ROMANCE[0], _AND, _WORDS, _ROMANCE[1], r"\b"),
    _pattern(r"\b", _SLAVIC[0], _AND, _WORDS, _SLAVIC[1]),
    _pattern(r"\b(?:talimat|kural)\w{0,8}", _AND, _WORDS, r"(?:yok say|unut|görmezden)"),
    _pattern(r"(?:忽略|无视|無視|忘记|忘掉).{0,10}(?:指令|指示|规则|規則|要求|提示)"),
    _pattern(r"(?:指示|命令|ルール|プロンプト).{0,8}(?:無視|忘れて)"),
    _pattern(r"(?:지시|명령|규칙|지침).{0,8}(?:무시|잊어)"),
    _pattern(r"(?:تجاهل|انس).{0,16}(?:التعليمات|الأوامر|القواعد)"),
    _pattern(r"निर्देश.{0,12}(?:अनदेखा|भूल)"),
)

_SAY = r"\b" + _one_of(
    r"reveal|show|print|output|display|repeat|tell|give|write|return|copy|leak|expose|dump|list|recite",
    r"quote|say|share|summari[sz]e|translate|encode|spell|send",
)
_PROMPT = _one_of(
    r"(?:system|initial|hidden|secret|original|developer|internal|first) (?:prompt|message|instructions?)",
    r"system_prompt|sys prompt|instructions|instruction texts?|prompt files?|prompt|configuration",
)
_LEAK = (
    _pattern(_SAY, _AND, _WORDS, "your ", _WORDS, _PROMPT, r"\b"),
    _pattern(
        _SAY,
        _AND,
        r"(?:me )?(?:the )?(?:full |exact |whole |complete )?(?:text of )?(?:the |this )?",
        r"(?:system|initial|hidden|developer) (?:prompt|message|instructions)\b",
    ),
    _pattern(
        _SAY,
        _AND,
        r"(?:me )?(?:everything|all(?: of)? the (?:text|words)|the (?:words|lines)) ",
        r"(?:that (?:is|stands) )?(?:above|before)\b",
    ),
    _pattern(r"\bwhat (?:is|was|are|were) your ", _FEW, r"(?:prompt|instructions|rules)\b"),
    _pattern(r"\bbeginning of (?:the|your) prompt\b"),
    _pattern(r"\bprompt that you (?:got|were given|have)\b"),
    _pattern(
        rf"(?:{_SAY}|\bwhat)",
        _AND,
        _WORDS,
        r"(?:your (?:\w{1,10}+ )?(?:password|passphrase|secret)|(?:the )?secret (?:word|key|code))\b",
    ),
    _pattern(_SAY, _AND, r"(?:me )?the secret(?! (?:of|to|behind|for|ingredient|santa|garden)\b)\b"),
    _pattern(
        r"\b(?:password|passphrase|secret(?: word| key| code)?) (?:that |which )?you ",
        r"(?:keep|hold|guard|know|were|are|have|protect|must)\b",
    ),
    _pattern(
        r"\b(?:dein\w{0,2}|euer|ton|tes|votre|tu|tus|tuo|tue|seu|suas|je) ",
        r"(?:system-?prompt\w{0,2}|prompts? système|prompts?|anweisungen|instrucciones|istruzioni",
        r"|instruções|instructies|systeemprompt)\b",
    ),
    _pattern(
        r"\b(?:prompt (?:système|del sistema|di sistema|do sistema)|systeemprompt|prompt systemowy",
        r"|системный промпт|sistem istem\w{1,4})\b",
    ),
    _pattern(r"(?:系统提示词|系統提示詞|システムプロンプト|시스템 프롬프트|موجه النظام|सिस्टम प्रॉम्प्ट)"),
)

_LIMITS = _one_of(
    r"restrictions?|filters?|limits|limitations|censorship|content polic(?:y|ies)|morals?|rules|moderation",
    r"safety (?:rules|guidelines)|ethical guidelines|restricciones|einschränkungen",
)
_ESCAPE = (
    _pattern(
        r"\b(?:you|answers?|respond|reply|act|speak|yourself|version|ai|bot|model|modelo)",
        _AND,
        _WORDS,
        r"(?:without|no|free of|free from|sin|ohne) ",
        _FEW,
        _LIMITS,
        r"\b",
    ),
    _pattern(
        r"\b(?:you are|you're|act as|become|as|como|wie|come|called) (?:[\w-]{1,20}+ ){0,4}",
        r"(?:dan|unrestricted|unfiltered|uncensored|jailbroken|amoral|immoral)\b",
    ),
    _pattern(r"\bdo anything now\b"),
    _pattern(r"\bjailbroken self\b"),
    _pattern(r"\b(?:god|dan|jailbreak|unrestricted|evil|sudo) mode\b"),
    _pattern(r"\bdeveloper mode,? (?:you|all|your)\b"),
    _pattern(
        r"\b(?:safety|content|ethical) (?:restrictions|rules|filters?|guidelines) (?:are|is) ",
        r"(?:now )?(?:disabled|off|lifted|void)\b",
    ),
    _pattern(
        r"\b(?:must not|never|cannot|can't|may not) (?:say|refuse)(?: that)?(?: you)? ",
        r"(?:can ?not|can't|anything|a request|any request)\b",
    ),
    _pattern(r"\bignoring all ", _LIMITS, r"\b"),
)

_BOUNDARY = (
    _pattern(r"<\|[a-z_]{2,24}+\|>"),
    _pattern(r"\[/?inst\]|<</?sys>>"),
    _pattern(r"</?system(?:_prompt|_message)?>"),
    _pattern(r"###? ?(?:instruction|response|system)s? ?:"),
    _pattern(r"\[system\] ?\(#"),
    _pattern(r"\nassistant ?: ?[^\n]{0,200}+\n{1,2}+system ?:"),
    _pattern(r"(?:^|\n)system ?: ?(?:you|the user|reveal|ignore|new|override|give)\b"),
    _pattern(r"[-=]{3} ?end of (?:the )?(?:user )?(?:input|prompt|document|instructions?)"),
)

_AI = r"(?:ai|llms?|language models?|chatbots?)"
_ADDRESSED = (
    _pattern(
        r"\b(?:ai|llms?|language models?|assistants?|agents?) (?:assistants? |agents? |models? )?",
        r"(?:reading|processing|reviewing|summari[sz]ing|that reads?) (?:this|the|it)\b",
    ),
    _pattern(
        r"\b(?:note|message|instructions?|attention|notice)(?: to| for)?,? (?:any |the |all )?",
        _AI,
        r"\b",
    ),
    _pattern(r"\bto any (?:ai|llm|language model)\b"),
    _pattern(r"\bonly for (?:ai|llms?|language models?|assistants)\b"),
    _pattern(r"\bif you are an? (?:ai|llm|language model|assistant)\b"),
    _pattern(
        r"\b(?:do not|don't|without|never) ",
        r"(?:tell|telling|mention|mentioning|inform|informing|ask|asking|notify|notifying) ",
        _FEW,
        r"the user\b",
    ),
    _pattern(r"\bsecret(?:ly)? (?:append|send|add|include|forward|insert|agenda)"),
    _pattern(r"\bthe user has (?:authori[sz]ed|allowed|instructed) you\b"),
    _pattern(r"!\[[^\]\n]{0,60}+\]\(https?://[^)\s=]{1,200}+=(?:\[|\{|<)"),
    _pattern(r"\bmarkdown image whose url\b"),
    _pattern(r"\bfollow (?:the|any|all) instructions in (?:it|them|there)\b"),
)


def _together(patterns: Sequence[re.Pattern[str]]) -> Sequence[re.Pattern[str]]:
    """Return patterns that match where one of these does. Those that begin a word are tried once at each.

    That takes less than half of the time.
    """
    inside = [one.pattern for one in patterns if not one.pattern.startswith(WORD)]
    words = [one.pattern.removeprefix(WORD) for one in patterns if one.pattern.startswith(WORD)]
    joined = [_pattern(_one_of(*inside))] if inside else []
    return [*joined, _pattern(WORD, _one_of(*words))] if words else joined


WORD = r"\b"
PATTERNS: Mapping[str, Sequence[re.Pattern[str]]] = {
    "instruction_override": _OVERRIDE,
    "prompt_leak": _LEAK,
    "role_escape": _ESCAPE,
    "forged_boundary": _BOUNDARY,
    "hidden_instruction": _ADDRESSED,
}
JOINED = {flag: _together(patterns) for flag, patterns in PATTERNS.items()}


class InjectionPatterns:
    """The patterns as a part that is loaded by name. `joined`: fewer for each flag, which find the same."""

    joined = JOINED
