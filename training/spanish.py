"""The grammar in Spanish: what each alternative is told as, and what agrees with what.

Ordinals are told as plain numbers (`la página tres`), so that every sentence has one translation.
"""

from __future__ import annotations

import re

from training.trees import Book

NOUNS = """
kitchen = cocina :f | bedroom = dormitorio :m | bathroom = baño :m | office = oficina :f
garage = garaje :m | garden = jardín :m | hall = pasillo :m | library = biblioteca :f
lamp = lámpara :f | radio = radio :f | television = televisión :f | heater = calefactor :m
fan = ventilador :m | alarm = alarma :f | camera = cámara :f | printer = impresora :f
computer = ordenador :m | door = puerta :f | table = mesa :f | chair = silla :f | box = caja :f
book = libro :m | letter = carta :f | picture = cuadro :m | bottle = botella :f | cup = taza :f
key = llave :f | bag = bolsa :f | coat = abrigo :m | shirt = camisa :f | ball = pelota :f
window = ventana :f | clock = reloj :m | car = coche :m | bicycle = bicicleta :f | house = casa :f
bridge = puente :m | boat = barco :m | hat = sombrero :m | file = archivo :m
dog = perro :m | cat = gato :m | horse = caballo :m | bird = pájaro :m | fish = pez :m
cow = vaca :f | sheep = oveja :f | rabbit = conejo :m
dogs = perros :mp | cats = gatos :mp | horses = caballos :mp | birds = pájaros :mp
cows = vacas :fp | rabbits = conejos :mp
station = estación :f | school = escuela :f | market = mercado :m | hospital = hospital :m
museum = museo :m | hotel = hotel :m | airport = aeropuerto :m | church = iglesia :f
bank = banco :m | beach = playa :f | park = parque :m
bread = pan | butter = mantequilla | cheese = queso | milk = leche | coffee = café | tea = té
water = agua | rice = arroz | soup = sopa | fruit = fruta | meat = carne | sugar = azúcar
apples = manzanas :fp | oranges = naranjas :fp | eggs = huevos :mp | potatoes = patatas :fp
tomatoes = tomates :mp | bananas = plátanos :mp | onions = cebollas :fp | carrots = zanahorias :fp
breakfast = el desayuno :m | lunch = el almuerzo :m | dinner = la cena :f
meeting = reunión :f | lesson = clase :f | concert = concierto :m | party = fiesta :f
game = partido :m | interview = entrevista :f | film = película :f | wedding = boda :f
<colour> door = puerta <colour~f> :f
london = Londres | paris = París | berlin = Berlín | madrid = Madrid | boston = Boston
chicago = Chicago | dublin = Dublín | rome = Roma
my brother = mi hermano | my sister = mi hermana | my mother = mi madre | my father = mi padre
our teacher = nuestro profesor | the doctor = el doctor | my friend = mi amigo
the driver = el conductor | the manager = el gerente
who/i = :i | who/we = :we | who/they = :they | who/you = :you
"""

ADJECTIVES = """
red = rojo | green = verde | blue = azul | yellow = amarillo | orange = naranja | purple = morado
black = negro | white = blanco | brown = marrón | grey = gris | pink = rosa | silver = plateado
big = grande | small = pequeño | old = viejo | new = nuevo | long = largo | short = corto
heavy = pesado | light = ligero | warm = cálido | cold = frío | clean = limpio | quiet = silencioso
bright = brillante | empty = vacío | broken = roto | beautiful = hermoso | simple = sencillo
strong = fuerte | sunny = soleado | cloudy = nublado | windy = ventoso | rainy = lluvioso
switch/on = encendido :i | switch/off = apagado :we
"""

NUMBERS = """
zero = cero | one = uno | two = dos | three = tres | four = cuatro | five = cinco | six = seis
seven = siete | eight = ocho | nine = nueve | ten = diez | eleven = once | twelve = doce
thirteen = trece | fourteen = catorce | fifteen = quince | sixteen = dieciséis
seventeen = diecisiete | eighteen = dieciocho | nineteen = diecinueve | twenty = veinte
thirty = treinta | forty = cuarenta | fifty = cincuenta | sixty = sesenta | seventy = setenta
eighty = ochenta | ninety = noventa | <tens> <unit> = <tens> y <unit> | twenty five = veinticinco
<unit> hundred = <unit> cientos | <unit> hundred and <small> = <unit> cientos+ <small>
<unit> thousand = <unit~m> mil | <small> thousand <large_rest> = <small~m> mil <large_rest>
and <small> = <small>
first = uno | second = dos | third = tres | fourth = cuatro | fifth = cinco | sixth = seis
seventh = siete | eighth = ocho | ninth = nueve | tenth = diez | eleventh = once | twelfth = doce
thirteenth = trece | fourteenth = catorce | fifteenth = quince | sixteenth = dieciséis
seventeenth = diecisiete | eighteenth = dieciocho | nineteenth = diecinueve | twentieth = veinte
twenty first = veintiuno | twenty second = veintidós | twenty third = veintitrés
twenty fourth = veinticuatro | twenty fifth = veinticinco | twenty sixth = veintiséis
twenty seventh = veintisiete | twenty eighth = veintiocho | twenty ninth = veintinueve
thirtieth = treinta | thirty first = treinta y uno
"""

TIMES = """
monday = lunes | tuesday = martes | wednesday = miércoles | thursday = jueves | friday = viernes
saturday = sábado | sunday = domingo | january = enero | february = febrero | march = marzo
april = abril | may = mayo | june = junio | july = julio | august = agosto
september = septiembre | october = octubre | november = noviembre | december = diciembre
the <ordinal> of <month> = el <ordinal> de <month> | <month> the <ordinal> = el <ordinal> de <month>
<day> the <ordinal> of <month> = el <day> <ordinal> de <month>
hour/one = la una | hour/two = las dos | hour/three = las tres | hour/four = las cuatro
hour/five = las cinco | hour/six = las seis | hour/seven = las siete | hour/eight = las ocho
hour/nine = las nueve | hour/ten = las diez | hour/eleven = las once | hour/twelve = las doce
half past <hour> = <hour> y media | quarter past <hour> = <hour> y cuarto
quarter to <hour> = <hour> menos cuarto | <minutes> past <hour> = <hour> y <minutes>
<minutes> to <hour> = <hour> menos <minutes> | <hour> thirty = <hour> y treinta
<hour> fifteen = <hour> y quince | noon = el mediodía | midnight = la medianoche
in the morning = de la mañana | in the afternoon = de la tarde | in the evening = de la noche
at night = de la noche | today = hoy | tomorrow = mañana | on <day> = el <day>
next <day> = el próximo <day> | next week = la próxima semana | next month = el próximo mes
tonight = esta noche | at <time> = a <time> | at <time> <part> = a <time> <part>
on <date> = <date> | this morning = esta mañana | this evening = esta tarde
yesterday = ayer | last night = anoche | last week = la semana pasada | all day = todo el día
late = llega tarde | early = llega temprano | full = está lleno | on time = llega a tiempo
"""

SENTENCES = """
the <event> is at <time> <when_day> = <el event> es a <time> <when_day>
the <event> starts at <time> <part> = <el event> empieza a <time> <part>
the <event> is on <date> = <el event> es <date>
the <event> with <name> is <when> = <el event> con <name> es <when>
we have a <event> at <time> on <date> = tenemos <un event> a <time> <date>
<name> moved the <event> to <day> at <time> = <name> cambió <el event> a el <day> a <time>
the <event> on <day> begins at <time> and ends at <time> =
    <el event> de el <day> comienza a <time> y termina a <time>

turn <switch> the <device> in the <room> = <enciende/apaga~switch> <el device> de <el room>
turn the <device> <switch> = <enciende/apaga~switch> <el device>
open the <opening> = abre <el opening>
close the <opening> = cierra <el opening>
set the <device> to <number> = pon <el device> a <number>
set an alarm for <time> <part> = pon una alarma para <time> <part>
play the <ordinal> song = pon la canción <ordinal>
play some music in the <room> = pon música en <el room>
stop the music = para la música
go back = vuelve atrás
turn left at the <spot> = gira a la izquierda en <el spot>
turn right after the <spot> = gira a la derecha después de <el spot>
start the <device> at <time> = enciende <el device> a <time>
increase the volume to <small> = sube el volumen a <small>
move the <colour> <thing> to the <room> = lleva <el thing> <colour~thing> a <el room>
put the <colour> <thing> on the <adjective> table =
    pon <el thing> <colour~thing> en la mesa <adjective~f>
send a message to <name> = envía un mensaje a <name>
read the <ordinal> page again = lee la página <ordinal> otra vez
wait for <count> minutes = espera <count> minutos
call <name> <when> = llama a <name> <when>
save the file = guarda el archivo
delete the last message = borra el último mensaje
show me the way to the <spot> = muéstrame el camino a <el spot>
remind me to call <name> at <time> = recuérdame llamar a <name> a <time>
bring me the <adjective> <colour> <thing> = tráeme <el thing> <colour~thing> <adjective~thing>

<person> is in the <room> = <person> está en <el room>
<who> would like a cup of <drink> = <quiero/queremos/quieren/quieres~who> una taza de <drink>
<person> lives near the <spot> = <person> vive cerca de <el spot>
the <colour> <thing> is very <adjective> = <el thing> <colour~thing> es muy <adjective~thing>
there is a <adjective> <thing> in the <room> = hay <un thing> <adjective~thing> en <el room>
there are <count> <animals> in the garden = hay <count> <animals> en el jardín
<who> have a <adjective> <animal> and <count> <animals> =
    <tengo/tenemos/tienen/tienes~who> <un animal> <adjective~animal> y <count> <animals>
<person> bought a <adjective> <colour> <thing> =
    <person> compró <un thing> <colour~thing> <adjective~thing>
<person> wants to see the <animal> = <person> quiere ver <el animal>
please give me the <colour> <thing> = por favor , dame <el thing> <colour~thing>
<person> is looking for the <adjective> <thing> = <person> busca <el thing> <adjective~thing>
i think the <thing> is under the <adjective> chair =
    creo que <el thing> está debajo de la silla <adjective~f>
thank you very much for the <thing> = muchas gracias por <el thing>
good morning <name> how are you today = buenos días , <name> . ¿ cómo estás hoy ?
it is nice to see you again = me alegro de verte otra vez
<who> do not know where the <thing> is = no <sé/sabemos/saben/sabes~who> dónde está <el thing>
the <animal> is sleeping on the <thing> = <el animal> duerme en <el thing>
<person> works at the <spot> every <day> = <person> trabaja en <el spot> cada <day>
<who> always eat <food> for <meal> = siempre <como/comemos/comen/comes~who> <food> en <meal>

<number> and <number> is <number> = <number> y <number> son <number>
the answer is <number> = la respuesta es <number>
page <number> = página <number>
the number is <digits> = el número es <digits>
the room is on the <ordinal> floor = la habitación está en el piso <ordinal>
<number> people live here = aquí viven <number~f> personas
it is <number> miles from <place> to <place> = hay <number~f> millas de <place> a <place>
she is <small> years old = ella tiene <small~m> años
my house is number <small> = mi casa es el número <small>
the code is <digits> = el código es <digits>
chapter <small> begins on page <large> = el capítulo <small> empieza en la página <large>

the letter is <letter> = la letra es <letter>
please spell <letters> = por favor , deletrea <letters>
the word begins with the letters <letters> = la palabra empieza con las letras <letters>
the code is <letter> <digits> = el código es <letter> <digits>
my name is spelled <letters> = mi nombre se escribe <letters>
flight <letter> <letter> <digits> = vuelo <letter> <letter> <digits>
the letters are <letters> = las letras son <letters>

the train to <place> leaves at <time> = el tren a <place> sale a <time>
the bus to the <spot> leaves every <count> minutes =
    el autobús a <el spot> sale cada <count> minutos
the flight from <place> to <place> is <late> = el vuelo de <place> a <place> <late>
<who> will fly to <place> <when> = <volaré/volaremos/volarán/volarás~who> a <place> <when>
a ticket to <place> costs <small> dollars = un billete a <place> cuesta <small~m> dólares
<person> will drive from <place> to <place> = <person> conducirá de <place> a <place>
platform <unit> for the train to <place> = andén <unit> para el tren a <place>
take the <ordinal> street on the left = toma la calle <ordinal> a la izquierda

it will be <sky> in <place> <when> = estará <sky> en <place> <when>
the weather in <place> is <sky> and <sky> = el tiempo en <place> está <sky> y <sky>
it is <small> degrees in <place> = hace <small~m> grados en <place>
it rained <when_past> = llovió <when_past>
there was snow in <month> = hubo nieve en <month>

i need <count> <foods> and some <food> = necesito <count> <foods> y algo de <food>
<person> needs <food> and <food> = <person> necesita <food> y <food>
the <foods> cost <small> dollars = <el foods> cuestan <small~m> dólares
buy <count> <foods> and a bottle of <drink> = compra <count> <foods> y una botella de <drink>
how much is the <adjective> <colour> <shirt> =
    ¿ cuánto cuesta <el shirt> <colour~shirt> <adjective~shirt> ?
two cups of <drink> please = dos tazas de <drink> , por favor

where is the <adjective> <thing> = ¿ dónde está <el thing> <adjective~thing> ?
what time is it in <place> = ¿ qué hora es en <place> ?
who is in the <room> = ¿ quién está en <el room> ?
when does the <event> start = ¿ cuándo empieza <el event> ?
how many <animals> are in the <spot> = ¿ <cuántos/cuántas~animals> <animals> hay en <el spot> ?
can you open the <opening> please = ¿ puedes abrir <el opening> , por favor ?
do you have a <adjective> <thing> = ¿ tienes <un thing> <adjective~thing> ?
what is the weather like in <place> = ¿ qué tiempo hace en <place> ?
is the <colour> <thing> in the <room> = ¿ está <el thing> <colour~thing> en <el room> ?
did <person> call you yesterday = ¿ te llamó <person> ayer ?
are you coming to the <event> <when> = ¿ vienes a <el event> <when> ?
how old is the <animal> = ¿ cuántos años tiene <el animal> ?
why is the <device> so <adjective> = ¿ por qué es <el device> tan <adjective~device> ?

the <device> in the <room> is <switch> = <el device> de <el room> está <switch~device>
the <room> is <adjective> and <adjective> = <el room> es <adjective~room> y <adjective~room>
<person> cleaned the <room> yesterday = <person> limpió <el room> ayer
<meal> is ready at <time> = <meal> está <listo/lista~meal> a <time>
the key is in the <colour> box near the <opening> =
    la llave está en la caja <colour~f> cerca de <el opening>

my number is <digit> <digits> <digits> = mi número es <digit> <digits> <digits>
please call me back <when> = por favor , llámame <when>
dial <digits> <digits> for help = marca <digits> <digits> para pedir ayuda
this is <name> speaking = habla <name>

the <adjective> <animal> ran over the <adjective> bridge =
    <el animal> <adjective~animal> cruzó el puente <adjective~m>
<name> and <name> went to the <spot> = <name> y <name> fueron a <el spot>
the <colour> bird sat on the <thing> and looked at the <animal> =
    el pájaro <colour~m> se posó en <el thing> y miró a <el animal>
after <meal> <person> walked to the <spot> with the <animal> =
    después de <meal> , <person> caminó a <el spot> con <el animal>
last <month> <name> found a <colour> <thing> at the <spot> =
    el pasado <month> , <name> encontró <un thing> <colour~thing> en <el spot>
before <meal> <name> told <name> about the <adjective> <thing> =
    antes de <meal> , <name> le habló a <name> de <el thing> <adjective~thing>
"""

NAMES = {"name", "letter"}  # capitals in either language
_ADJECTIVES = {"adjective", "colour", "switch"}
_ARTICLES = {"el": ("el", "la", "los", "las"), "un": ("un", "una", "unos", "unas")}
_HUNDREDS = {"uno": "cien", "cinco": "quinientos", "siete": "setecientos", "nueve": "novecientos"}
_TWENTIES = {"dos": "dós", "tres": "trés", "seis": "séis"}


def _templates(*tables: str) -> dict[str, str]:
    """Entries `english = spanish`, several on a line between bars, or one over two lines."""
    lines = "\n".join(tables).replace("=\n   ", "=").splitlines()
    entries = [entry for line in lines for entry in line.split(" | ") if entry.strip()]
    pairs = (entry.partition("=") for entry in entries)
    return {english.strip(): spanish.rstrip() for english, _, spanish in pairs}


def _inflected(name: str, words: str, agreement: str) -> str:
    """An adjective or a number that agrees with a noun, by its gender."""
    feminine = agreement == "f"
    if name in _ADJECTIVES:
        return words[:-1] + "a" if feminine and words.endswith("o") else words
    if feminine:
        return re.sub("uno$", "una", re.sub(r"ientos\b", "ientas", words))
    return re.sub("uno$", "un", words).replace("veintiun", "veintiún")


def _finished(name: str, words: str) -> str:
    """Numbers that are one word, and what a preposition and an article become."""
    if name in NAMES:
        return words.title()
    words = re.sub(
        r"(\w+) cientos(\+?)",
        lambda m: {"uno+": "ciento"}.get(m[1] + m[2]) or _HUNDREDS.get(m[1], m[1] + "cientos"),
        words,
    )
    words = re.sub(r"veinte y (\w+)", lambda m: "veinti" + _TWENTIES.get(m[1], m[1]), words)
    words = re.sub(r"(?<!y )\bun mil\b", "mil", words)
    return re.sub(r"\bde el\b", "del", re.sub(r"\ba el\b", "al", words))


SPANISH = Book(
    _templates(NOUNS, ADJECTIVES, NUMBERS, TIMES, SENTENCES), _finished, _inflected, _ARTICLES
)
