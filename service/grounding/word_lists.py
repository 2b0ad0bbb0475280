"""Word lists of four languages, for checking statements. languages.py turns them into stems."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WordLists:
    """The words of one language, separated by blanks.

    articles, pronouns, auxiliaries, joins   small words, which need no support
    generic      of talking about a document; they need no support either
    frames       by the kind of a section: words that its heading says ("worked" under "Experience")
    questions    words that only make a question of it
    same         groups of words that mean the same
    weakeners    what makes another statement of the words beside it: "basic", "assistant", "planned"
    present      forms of a verb that say that it is so today;  current   what says so of an entry
    starts, ends of a period: "joined", "left"
    """

    letters: str
    articles: str
    pronouns: str
    auxiliaries: str
    joins: str
    conjunctions: str
    negations: str
    yes: str
    no: str
    anaphora: str
    generic: str
    frames: dict[str, str]
    questions: str
    same: tuple[str, ...]
    numbers: str
    months: str
    weakeners: str
    present: str
    current: str
    since: str
    until: str
    starts: str
    ends: str
    relatives: str
    catenatives: str
    received: str
    relations: str
    possessives: str
    passives: str
    agents: str
    measures: str
    leads: str
    sections: dict[str, str]
    abbreviations: str
    irregular: dict[str, str] = field(default_factory=dict)


def _irregular(text: str) -> dict[str, str]:
    """Return the forms of each line's verb, by form: "lead led" -> led: lead."""
    pairs = [line.split() for line in text.split(",")]
    return {form: verb for verb, *forms in pairs for form in forms}


EN = WordLists(
    letters="",
    articles="a an the ",
    pronouns="i me my we our us you your he him his she her hers they them their theirs it its who whom"
    " whose",
    auxiliaries=" is are was were be been being am has have had having do does did done 's ",
    joins="and or as at in of for with to from by on into onto within across through among there which"
    " that where"
    " while when & also then",
    conjunctions="and or & while but",
    negations="not no never neither nor none without cannot nobody nothing n't isn't wasn't aren't"
    " weren't don't"
    " doesn't didn't hasn't haven't hadn't couldn't wouldn't",
    yes="yes yeah yep correct right indeed exactly",
    no="no nope",
    anaphora="it this that these those so such",
    generic="resume résumé cv document passage section entry list lists listed mention mentions mentioned"
    " say says"
    " state states stated according show shows describe describes described include includes including"
    " included"
    " following using used use uses named called person candidate applicant details detail information"
    " together",
    frames={
        "experience": "work works worked working job jobs role roles position positions title employ employs"
        " employed employer employers employment company companies experience professional career serve"
        " serves"
        " served hold holds held",
        "education": "study studies studied studying student education educated attend attended academic"
        " school background qualification qualifications have",
        "degrees": "degree degrees graduate graduated earn earned obtain obtained receive received complete"
        " completed hold holds held",
        "skills": "know knows known skill skills skilled technology technologies tool tools familiar"
        " experience"
        " programming program work works worked ability language languages technical",
        "languages": "speak speaks speaker spoken language languages know knows skill skills level",
        "summary": "summary profile describes",
        "contact": "contact email e-mail mail phone number address reach reached can",
        "publications": "publish published publication publications write wrote written author authored",
        "awards": "award awards awarded receive received win won prize honour honor",
        "certificates": "certificate certificates certification certifications certified hold holds held",
        "interests": "interest interests interested hobby hobbies enjoy enjoys like likes",
    },
    questions="what which who whom whose where when why how many much long ever please tell list name me"
    " about"
    " does did can could would you is there any all give everything show know say resume she he they",
    same=(
        "build develop create implement",
        "reduce cut lower decrease",
        "increase raise",
        "mentor coach",
        "percent percentage",
        "dollar usd",
        "euro eur",
        "pound gbp",
        "university uni",
        "internship intern",
        "citizen citizenship",
    ),
    numbers="two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen"
    " eighteen nineteen twenty",
    months="january/jan february/feb march/mar april/apr may june/jun july/jul august/aug september/sep/sept"
    " october/oct november/nov december/dec",
    weakeners="help assist support contribute plan propose attempt try intend basic basics beginner"
    " elementary"
    " former formerly almost nearly partly interim acting deputy vice junior assistant associate intern"
    " internship"
    " trainee unfinished incomplete discontinued expected applied nominated shortlisted co part aspiring"
    " hope want"
    " under alleged assisted conversational",
    present="works working is are serves holds",
    current="present today now current currently ongoing",
    since="since",
    until="until till",
    starts="joined join started start began begin since founded",
    ends="left leave ended end until till finished graduated completed",
    relatives="who whose that which",
    received="promote award appoint elect nominate select hire choose invite name recruit transfer shortlist"
    " certify admit grant honour honor born",
    relations="for with to from against under without",
    catenatives="manage help plan try fail want hope intend agree learn begin ask attempt offer prepare",
    possessives="my our your his her their its",
    passives="was were been is are got being",
    agents="by",
    measures="by to from over under per above below",
    leads="there here",
    sections={
        "experience": "experience employment work career history positions professional",
        "education": "education academic studies degrees qualifications training",
        "skills": "skills technologies competencies tools expertise technical",
        "languages": "languages",
        "summary": "summary profile about objective",
        "contact": "contact details personal",
        "publications": "publications papers talks writing",
        "awards": "awards honours honors prizes",
        "certificates": "certificates certifications licences licenses",
        "interests": "interests hobbies volunteering",
        "projects": "projects",
        "references": "references",
    },
    abbreviations="dr mr mrs ms prof st etc vs approx inc ltd co corp dept est e.g i.e no vol jan feb mar"
    " apr jun jul"
    " aug sep sept oct nov dec b.sc m.sc ph.d b.a m.a fig",
    irregular=_irregular(
        "lead led,build built,write wrote written,teach taught,run ran,grow grew grown,speak spoke spoken,"
        "begin began begun,hold held,win won,keep kept,leave left,make made,get got gotten,give gave given,"
        "take took taken,bring brought,buy bought,sell sold,meet met,find found,think thought,cut cut,"
        "set set,become became,come came,go went gone,see saw seen,know knew known,draw drew drawn,"
        "drive drove driven,rise rose risen,fall fell fallen,spend spent,send sent,pay paid,person people"
    ),
)

DE = WordLists(
    letters="äöüß",
    articles="der die das des dem den ein eine einen einem einer eines ",
    pronouns="ich mich mir mein meine meinem meiner wir uns unser er ihn ihm sein seine seinen seinem"
    " seiner sie ihr"
    " ihre ihren ihrem ihrer es man",
    auxiliaries=" ist sind war waren wird wurde wurden worden hat haben hatte hatten habe bin sei ",
    joins="und oder als am im um in an auf aus bei beim mit von vom zu zum zur für durch über sowie auch"
    " dort wo & ab",
    conjunctions="und oder sowie &",
    negations="nicht kein keine keinen keinem keiner keines nie niemals nichts niemand ohne weder noch",
    yes="ja genau richtig stimmt",
    no="nein",
    anaphora="dies diese dieser dieses diesem diesen so solche",
    generic="lebenslauf dokument cv abschnitt eintrag passage liste nennt genannt steht laut gemäß"
    " erwähnt angegeben"
    " aufgeführt beschreibt folgende folgenden nutzte nutzt verwendete verwendet genutzt person"
    " kandidatin kandidat"
    " bewerberin bewerber angaben",
    frames={
        "experience": "arbeitet arbeitete gearbeitet arbeit tätig beschäftigt stelle stellen firma firmen"
        " arbeitgeber"
        " rolle position positionen beruf beruflich unternehmen job angestellt berufserfahrung erfahrung"
        " tätigkeit"
        " titel",
        "education": "studiert studierte studium ausbildung besuchte schule bildung",
        "degrees": "abschluss abschlüsse absolvierte absolviert erwarb erworben machte gemacht",
        "skills": "kennt kenntnisse kann beherrscht fähigkeiten fähigkeit programmiersprachen"
        " programmiersprache"
        " werkzeuge technologien sprachen erfahrung programmiert",
        "languages": "spricht gesprochen sprache sprachen sprachkenntnisse kenntnisse kann beherrscht niveau",
        "summary": "profil zusammenfassung",
        "contact": "kontakt email e-mail mail telefon nummer adresse erreichbar erreichen",
        "publications": "veröffentlichte veröffentlicht veröffentlichung veröffentlichungen schrieb"
        " geschrieben",
        "awards": "preis auszeichnung auszeichnungen erhielt erhalten gewann gewonnen",
        "certificates": "zertifikat zertifikate zertifiziert zertifizierung besitzt",
        "interests": "interessen interesse hobby hobbys mag interessiert",
    },
    questions="was welche welcher welches welchen wer wem wen wo wann warum wie viele viel lange je"
    " jemals bitte nenne"
    " sag mir über gibt hat alle alles sie er wofür woran seit",
    same=("prozent", "euro eur", "aufgebaut aufbau", "team teams"),
    numbers="zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn"
    " sechzehn siebzehn"
    " achtzehn neunzehn zwanzig",
    months="januar/jan februar/feb märz april/apr mai juni/jun juli/jul august/aug september/sep/sept"
    " oktober/okt"
    " november/nov dezember/dez",
    weakeners="half mitarbeit unterstützte unterstützung unterstützt geplant plante beworben"
    " grundkenntnisse anfänger"
    " ehemals fast beinahe teilweise stellvertretend stellvertretende stellvertretender stellvertreter"
    " kommissarisch"
    " junior assistent assistentin praktikum praktikantin praktikant werkstudent werkstudentin abgebrochen"
    " vorgeschlagen mitwirkung beteiligt angestrebt voraussichtlich",
    present="arbeitet ist sind leitet",
    current="heute aktuell derzeit jetzt gegenwärtig laufend",
    since="seit",
    until="bis",
    starts="begann begonnen seit wechselte eingetreten gründete",
    ends="verließ verlassen bis endete beendete abgeschlossen ausgeschieden",
    relatives="deren dessen welche welcher",
    received="befördert ernannt gewählt ausgezeichnet eingestellt geboren versetzt",
    relations="für mit gegen unter ohne von",
    catenatives="helfen versuchen planen beabsichtigen anbieten",
    possessives="ihr ihre ihren ihrem ihrer sein seine seinen seinem seiner mein meine",
    passives="wurde wurden worden wird",
    agents="von durch",
    measures="um auf von über unter pro",
    leads="dort dabei hier",
    sections={
        "experience": "berufserfahrung erfahrung werdegang beruf berufliche praxis tätigkeiten stationen",
        "education": "ausbildung studium bildung schulbildung abschlüsse",
        "skills": "kenntnisse fähigkeiten kompetenzen technologien edv it-kenntnisse",
        "languages": "sprachen sprachkenntnisse",
        "summary": "profil zusammenfassung kurzprofil",
        "contact": "kontakt persönliche daten",
        "publications": "veröffentlichungen publikationen vorträge",
        "awards": "auszeichnungen preise",
        "certificates": "zertifikate weiterbildung weiterbildungen",
        "interests": "interessen hobbys ehrenamt",
        "projects": "projekte",
        "references": "referenzen",
    },
    abbreviations="dr prof bzw ca z.b z b u.a u a d.h d h usw nr str abt inkl evtl ggf dipl ing hr fr"
    " b.sc m.sc mio mrd",
    irregular=_irregular(
        "schreiben schrieb geschrieben,sprechen spricht sprach gesprochen,führen führte geführt,bauen"
        " baute gebaut,"
        "aufbauen aufgebaut aufbau,einführen eingeführt einführung,senken senkte gesenkt sank sanken"
        " gesunken,halten hielt"
        " gehalten,"
        "gewinnen gewann gewonnen,übernehmen übernahm übernommen,betreuen betreute betreut betreuung"
    ),
)

FR = WordLists(
    letters="àâçèêëîïôùû",
    articles="le la les l un une des du de d ",
    pronouns="je j il elle ils elles on nous mon ma mes son sa ses leur leurs notre lui se s qui",
    auxiliaries=" est sont était étaient été a ont avait avaient ai fut être avoir ",
    joins="et ou en à au aux avec dans par pour sur chez que qu où comme dont & aussi",
    conjunctions="et ou &",
    negations="pas ne n jamais aucun aucune rien sans ni non",
    yes="oui exact exactement",
    no="non",
    anaphora="cela ça ceci celui celle ce c cette ces",
    generic="cv résumé document section passage selon mentionne mentionné indique indiqué dit liste cite"
    " comprend inclut"
    " suivant suivants utilisant utilisé utilise personne candidate candidat",
    frames={
        "experience": "travaille travaillé travaillait travail poste postes emploi emplois entreprise"
        " entreprises"
        " employeur employeurs rôle fonction expérience carrière professionnelle occupe occupé titre",
        "education": "étudié étudie étudiait études formation école suivi",
        "degrees": "diplôme diplômes diplômée obtenu obtient",
        "skills": "connaît compétences compétence maîtrise sait outils technologies programmation"
        " langages expérience",
        "languages": "parle parlées langue langues maîtrise niveau",
        "summary": "profil",
        "contact": "contact email courriel mail téléphone numéro adresse",
        "publications": "publié publication publications écrit",
        "awards": "prix distinction distinctions reçu remporté",
        "certificates": "certificat certificats certification certifications certifiée certifié",
        "interests": "intérêts loisirs aime",
    },
    questions="que quel quelle quels quelles qui où quand pourquoi comment combien jamais moi donne liste"
    " elle il est"
    " t y",
    same=("dirigé direction", "euro eur"),
    numbers="deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize",
    months="janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    weakeners="aidé aide assisté assistante assistant participé participation contribué adjoint adjointe"
    " stage stagiaire"
    " notions débutant prévu candidature ancien ancienne presque vice inachevé abandonné junior base bases",
    present="travaille est sont occupe dirige",
    current="aujourd actuel actuelle actuellement présent présente maintenant cours",
    since="depuis",
    until="jusqu",
    starts="rejoint commencé depuis débuté",
    ends="quitté jusqu terminé fini",
    relatives="dont",
    received="promue promu nommée nommé élue élu embauchée embauché née né",
    relations="pour avec contre sous sans",
    catenatives="aider essayer tenter prévoir",
    possessives="mon ma mes son sa ses leur leurs notre",
    passives="été fut",
    agents="par",
    measures="de à par",
    leads="là",
    sections={
        "experience": "expérience expériences parcours emplois professionnelle",
        "education": "formation études diplômes éducation",
        "skills": "compétences outils technologies",
        "languages": "langues",
        "summary": "profil résumé",
        "contact": "contact coordonnées",
        "publications": "publications conférences",
        "awards": "prix distinctions",
        "certificates": "certifications certificats",
        "interests": "intérêts loisirs bénévolat",
        "projects": "projets",
        "references": "références",
    },
    abbreviations="m mme dr prof etc env p.ex ex st ste n°",
    irregular=_irregular("écrire écrit,construire construit,conduire conduit,apprendre appris"),
)

ES = WordLists(
    letters="ñ¿¡",
    articles="el la los las un una unos unas lo al del de ",
    pronouns="yo mi mis ella él ellos ellas su sus se le les nos nuestro que",
    auxiliaries=" es son era eran fue fueron ha han había ser sido está están tiene tenía ",
    joins="y e o u en a con por para como desde donde sobre & también",
    conjunctions="y e o u &",
    negations="no nunca jamás ningún ninguna ninguno nada sin ni tampoco",
    yes="sí si exacto correcto",
    no="no",
    anaphora="esto eso ello así este esta estos estas ese esa",
    generic="currículum curriculum cv documento sección pasaje según menciona mencionado indica dice"
    " lista incluye"
    " siguiente siguientes usando usó usa utilizó persona candidata candidato",
    frames={
        "experience": "trabaja trabajó trabajado trabajo trabajos puesto puestos empleo empleos empresa"
        " empresas"
        " empleador cargo experiencia carrera profesional título",
        "education": "estudió estudia estudios formación escuela cursó",
        "degrees": "título títulos grado obtuvo obtenido",
        "skills": "conoce habilidades conocimientos sabe domina herramientas tecnologías programación"
        " lenguajes"
        " experiencia",
        "languages": "habla idioma idiomas domina nivel",
        "summary": "perfil",
        "contact": "contacto email correo teléfono número dirección",
        "publications": "publicó publicación publicaciones escribió",
        "awards": "premio premios recibió ganó",
        "certificates": "certificado certificados certificación certificaciones certificada",
        "interests": "intereses aficiones gusta",
    },
    questions="qué quién dónde cuándo cuál cuáles cómo cuántos cuántas cuánto ella él es alguna vez dime"
    " lista hay",
    same=("dirigió dirección", "euro eur", "ciento porcentaje"),
    numbers="dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince",
    months="enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    weakeners="ayudó ayuda apoyo apoyó asistente participó participación colaboró subdirectora"
    " subdirector prácticas"
    " becaria becario básico básicos nociones previsto candidatura antigua antiguo casi vice inacabado"
    " junior",
    present="trabaja es son está dirige",
    current="actualidad actual actualmente hoy presente ahora",
    since="desde",
    until="hasta",
    starts="empezó comenzó desde incorporó",
    ends="dejó hasta terminó acabó",
    relatives="quien quienes cuyo cuya",
    received="ascendida ascendido nombrada nombrado elegida elegido contratada contratado nacida nacido",
    relations="para con contra bajo sin",
    catenatives="ayudar intentar planear",
    possessives="mi mis su sus nuestro",
    passives="fue fueron sido",
    agents="por",
    measures="de a por en",
    leads="allí ahí",
    sections={
        "experience": "experiencia trayectoria empleo profesional laboral",
        "education": "formación educación estudios títulos",
        "skills": "habilidades conocimientos competencias herramientas",
        "languages": "idiomas",
        "summary": "perfil resumen",
        "contact": "contacto datos personales",
        "publications": "publicaciones charlas",
        "awards": "premios",
        "certificates": "certificados certificaciones",
        "interests": "intereses aficiones voluntariado",
        "projects": "proyectos",
        "references": "referencias",
    },
    abbreviations="sr sra dr dra prof etc p.ej ej núm av",
    irregular={},
)

LISTS = {"en": EN, "de": DE, "fr": FR, "es": ES}
