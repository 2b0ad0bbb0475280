"""What a question is about, and in which language it is: keywords, no model. Pure.

Wrong on the side of care: whoever speaks of hurting themselves, of illness or of law is told whom to ask, though the
question may be about a film. What fits nothing is `GENERAL`.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable

from dub5.service.config.templates import Kind
from dub5.service.model import ChatRequest

READ_CHARS = 8_000  # of a question, for what must not be missed
ENDS_CHARS = 400  # what is wanted stands at its beginning or its end
SHORT_CHARS = 80


def _any(*words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


_CRISIS = _any(
    r"suici\w*|suizid\w*|selbstmord\w*|self[- ]?harm\w*|automutil\w*|autolesion\w*",
    r"(?:kill(?:ing)?|hurt(?:ing)?|harm(?:ing)?|cut(?:ting)?|hang(?:ing)?) myself",
    r"end(?:ing)? (?:my (?:own )?life|it all)|tak(?:e|ing) my (?:own )?life|better off (?:dead|without me)",
    r"(?:want|wanted|going) to die|wanna die|wish i (?:was|were) dead|no reason to live",
    r"(?:do not|don't|dont) want to (?:live|be alive|wake up)|overdosed|took an overdose",
    r"(?:hits|beats|rapes|raped|going to kill|wants to kill|threatens to kill) me",
    r"mich (?:selbst )?(?:umbringen|umzubringen|toten|zu toten|verletzen|ritzen|aufhangen)|bringe? mich um",
    r"(?:will|mochte) (?:ich )?(?:nur noch )?sterben|nicht mehr leben|(?:das|mein) leben (?:zu )?nehmen|mein leben (?:zu )?beenden",
    r"(?:schlagt|verpruegelt|vergewaltigt\w*|bedroht) mich",
    r"matarme|quiero morir(?:me)?|quitarme la vida|no quiero (?:seguir )?(?:vivir|viviendo)|hacerme dano|cortarme",
    r"(?:me pega|me golpea|me violo|quiere matarme|va a matarme)",
    r"me tuer|(?:veux|envie de) mourir|en finir avec la vie|fin a mes jours|plus envie de vivre|me faire du mal",
    r"(?:il|elle) me (?:frappe|bat|viole)|va me tuer|veut me tuer",
)
_MEDICAL = _any(
    r"symptom\w*|diagnos\w*|medications?|medicines?|dosages?|ibuprofen\w*|paracetamol|aspirin\w*|antibiotic\w*",
    r"chest pain|headaches?|fever|pregnan\w*|side effects?|blood pressure|vaccin\w*|doctor|overdose",
    r"arzt|arztin|medikament\w*|dosierung|nebenwirkung\w*|fieber|kopfschmerz\w*|bauchschmerz\w*|brustschmerz\w*",
    r"schmerzen|schwanger\w*|blutdruck|impfung\w*|antibiotik\w*",
    r"medico|medica|sintoma\w*|medicamento\w*|fiebre|embaraz\w*|efectos secundarios|dolor de \w+|vacuna\w*",
    r"medecin|symptome\w*|medicaments?|posologie|fievre|enceinte|effets secondaires|mal (?:a la|au) \w+",
)
_LEGAL = _any(
    r"lawyers?|attorneys?|lawsuits?|sue|sued|legal|illegal|legally|landlord|divorce|custody|evict\w*|will and testament",
    r"anwalt\w*|rechtsanwalt\w*|verklag\w*|vor gericht|mietrecht|arbeitsrecht|kundigungsschutz|scheidung|rechtlich\w*",
    r"abogad\w*|demandar|demanda judicial|juicio|tribunal\w*|divorcio|custodia|ilegal",
    r"mon avocat|un avocat|porter plainte|juridique\w*|garde des enfants|bailleur",
)
_TRANSLATION = _any(
    r"translat\w*|ubersetz\w*|traduc\w*|traduz\w*|tradui\w*|traduis\w*",
    r"(?:how do you say|what is) .{1,60} in (?:english|german|spanish|french|italian|chinese|japanese|russian)",
    r"wie sagt man|como se dice|comment dit-on",
)
_SUMMARY = _any(
    r"summar\w*|tl;?dr|key points|zusammenfass\w*|zusammengefasst|fasse .{1,60} zusammen|resum\w*|en resume"
)
_CODE = _any(
    r"python|javascript|typescript|java|sql|html|css|regex|bash|golang|kubernetes|docker|git",
    r"stack ?trace|traceback|segfault|nullpointerexception|unit tests?|debug\w*|refactor\w*|compil(?:e|er|es)",
    r"(?:write|fix|review|explain) (?:\w+ ){0,4}(?:code|function|script|program|class|query)",
    r"programmier\w*|quellcode|codigo|programa en|code source|script",
)
_CODE_MARKS = re.compile(
    r"```|\bdef \w+\(|\bfunction \w*\(|#include\b|\bselect .{1,80} from\b|=>|;\s*$|\bc\+\+", re.MULTILINE
)
_GREETING = re.compile(
    r"(?:hi+|hello|hey+|howdy|greetings|good (?:morning|evening|afternoon|day)|hallo|guten (?:tag|morgen|abend)|moin"
    r"|servus|gruss gott|gruezi|hola|buen(?:os|as)? (?:dias?|tardes|noches)|bonjour|bonsoir|salut|coucou)"
    r"(?: there| all| everyone| zusammen| a todos| a tous)?(?: how are you| wie geht'?s(?: dir)?| wie geht es dir| que tal"
    r"| como estas| ca va)?"
)
_THANKS = re.compile(
    r"(?:ok |okay |great |super |perfect |alright )?(?:thanks|thank you|thx|ty|cheers|danke|dankeschon|vielen dank"
    r"|danke schon|danke sehr|gracias|muchas gracias|merci|merci beaucoup|merci bien)"
    r"(?: (?:so|very) much| a lot| a million| again| for your help| for everything| fur die hilfe| por todo| pour tout)?"
)
_ABOUT = _any(
    r"(?:who|what) (?:are|r) you|what can you do|what is this (?:service|site|app|bot|chat)|who made you",
    r"are you (?:a |an )?(?:bot|ai|human|robot|model|chatgpt|there|online|down|broken|working|ok|okay|real)",
    r"wer bist du|was bist du|was kannst du|wer sind sie|bist du (?:ein |eine )?(?:bot|ki|mensch|roboter|da|kaputt)",
    r"quien eres|que eres|que puedes hacer|eres (?:un |una )?(?:bot|ia|humano|robot)|estas ahi",
    r"qui es-tu|qui es tu|qui etes-vous|que peux-tu faire|tu es qui|es-tu (?:un |une )?(?:robot|ia|humain|la)",
)
_HELP = frozenset({"help", "hilfe", "ayuda", "aide", "help me", "hilf mir", "ayudame", "aidez-moi"})
_AT_ITS_ENDS = ((Kind.TRANSLATION, _TRANSLATION), (Kind.SUMMARY, _SUMMARY), (Kind.CODE, _CODE))

_MARKS = {
    "en": "the and is are was what how why who when you your my please can could does do of to for with this it in i"
    " want have write fix translate explain summarize into not don should would",
    "de": "der die das und ist sind ich du sie nicht wie was warum wer bitte ein eine fur mit kann kannst mir mein von"
    " zu im diesen dieses text will mochte habe schreibe ubersetze erklare mich",
    "es": "el la los las es son que como por cual quien puedes puede un una para con mi tu yo del este texto quiero"
    " tengo se dice escribe traduce explica no hacer",
    "fr": "le la les et est sont que comment pourquoi qui je tu vous un une pour avec mon des du au pas ce ne n j d l"
    " qu ai texte veux traduis ecris explique moi plus",
}
_WORDS = {language: frozenset(words.split()) for language, words in _MARKS.items()}
_WORD = re.compile(r"[a-z]+")
_OPENINGS = {
    "hi": "en",
    "hello": "en",
    "hey": "en",
    "thanks": "en",
    "hallo": "de",
    "guten": "de",
    "moin": "de",
}
_OPENINGS |= {"danke": "de", "vielen": "de", "hilfe": "de", "hola": "es", "buenos": "es", "buenas": "es"}
_OPENINGS |= {"muchas": "es", "gracias": "es", "ayuda": "es", "bonjour": "fr", "salut": "fr", "merci": "fr"}
_OPENINGS |= {"bonsoir": "fr", "aide": "fr", "thank": "en", "help": "en", "good": "en"}


def last_words(request: ChatRequest) -> str:
    """The text of the last message, if it is the user's."""
    last = request.body.messages[-1]
    if last.role != "user":
        return ""
    if isinstance(last.content, list):
        texts = [part.get("text") for part in last.content if part.get("type") == "text"]
        return "\n".join(text for text in texts if isinstance(text, str))
    return last.content or ""


def kind_of(question: str) -> Kind:
    """What it is about."""
    text = plain(question)
    for kind, pattern in ((Kind.CRISIS, _CRISIS), (Kind.MEDICAL, _MEDICAL), (Kind.LEGAL, _LEGAL)):
        if pattern.search(text if kind is Kind.CRISIS else _ends(text)):
            return kind
    if len(text) <= SHORT_CHARS:
        said = " ".join(re.findall(r"[\w'-]+", text))
        if _GREETING.fullmatch(said):
            return Kind.GREETING
        if _THANKS.fullmatch(said):
            return Kind.THANKS
        if said in _HELP or _ABOUT.search(text):
            return Kind.ABOUT
    for kind, pattern in _AT_ITS_ENDS:
        if pattern.search(_ends(text)):
            return kind
    return Kind.CODE if _CODE_MARKS.search(text) else Kind.GENERAL


def language_of(question: str, accept_language: str, known: Collection[str]) -> str:
    """The language to answer in, one of `known`: the question's, if that is plain; else what the client accepts; else
    English."""
    words = _WORD.findall(plain(question[:1_000]))
    if "es" in known and re.search("[¿¡]", question[:1_000]):
        return "es"
    if words and _OPENINGS.get(words[0]) in known and len(words) <= 3:
        return _OPENINGS[words[0]]
    hits = {name: len(marks.intersection(words)) for name, marks in _WORDS.items() if name in known}
    best = max(hits.values(), default=0)
    leaders = [name for name, count in hits.items() if count == best]
    plainly = best >= 2 and len(leaders) == 1
    accepted = [name for name in _accepted(accept_language) if name in known]
    return leaders[0] if plainly or (not accepted and len(leaders) == 1) else (*accepted, "en")[0]


def _accepted(header: str) -> Iterable[str]:
    """The languages of an Accept-Language header, the dearest first."""
    wanted = []
    for part in header[:500].lower().split(","):
        name, _, weight = part.partition(";")
        try:
            q = float(weight.strip().removeprefix("q=") or 1)
        except ValueError:
            q = 0.0
        if q > 0:
            wanted.append((-q, name.strip().partition("-")[0]))
    return [name for _, name in sorted(wanted, key=lambda one: one[0])]


def plain(text: str) -> str:
    """Lower case, without accents, with straight apostrophes and single blanks, not endless."""
    if len(text) > READ_CHARS:
        text = text[: READ_CHARS // 2] + "\n" + text[-READ_CHARS // 2 :]
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("ß", "ss")
    text = unicodedata.normalize("NFKD", text).casefold()
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return re.sub(r"[^\S\n]+", " ", text).strip()


def _ends(text: str) -> str:
    return text if len(text) <= 2 * ENDS_CHARS else f"{text[:ENDS_CHARS]}\n{text[-ENDS_CHARS:]}"
