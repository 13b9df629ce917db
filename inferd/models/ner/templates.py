"""Sentence templates for the generator (`data.py`): TRAIN and HELD_OUT share no template.

A template is text with slots in braces and choices in round brackets, "(a|b|)". Slots that make an entity:
{P} person, {F} full name, {G} given name, {T} titled person, {O} organisation with its article where it takes one,
{C} organisation without an article, {B} band or newspaper whose name starts with The, {L} place with its article
where it takes one, {K} bare city or country, {M} a date that follows "in" (month, month and year, year), {Y} year,
{W} a date that follows "on" (weekday, day of a month), {R} tomorrow or yesterday, {DATE} any of these,
{when} a date with its preposition. Slots that make plain words: {n} noun, {ns} plural noun, {a} adjective,
{v} past verb, {i} infinitive, {N} capitalised opener, {X} capitalised mid-sentence, {nat} nationality, {role} job,
{num} number, {rel} relative time that is not labelled (today, last year).
"""

from __future__ import annotations


def _lines(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


TRAIN = _lines("""
{P} (arrived|landed|stayed|studied|worked|died|married|settled|grew up|taught|spoke|performed|sang|\
retired) in {L}( {when}| |)
{P} (came|returned|drove|walked|went|flew|travelled|sailed|emigrated|escaped) to {L}( {when}||| with {P})
{P} (left|toured|loved|hated|missed|saw|reached|knew|described|painted|crossed) {L}( {when}|||)
{P} was (born|raised|married|buried|arrested|elected|killed|educated) in {L} {when}
{P}, who was born in {L}, (is|was) a {a} {role}
born in {L}, {P} (became|was) a {role} in {M}
{P} and {P} (arrived|live|lived|work|met|married|studied|settled) in {L}( {when}||)
{P} and {P} (went|moved|came|travelled) to {L}( {when}||)
{P}, {P} and {P} (went to {L}|left {when}|played well|were {a}|joined us)
{P} (met|saw|knew|called|married|helped|invited|interviewed|loved|thanked|hired|sued|blamed|\
taught) {P}( {when}||)
{P} (met|saw|visited|followed|joined) {P} at {O}( {when}||)
{P} (wrote|sent) a {n} to {P}( from {L}|| {when})
(I|we|they|she|he) (saw|called|invited|know|like|asked|remember|trust|miss) {P}( in {L}| at {O}| from {O}|\
 {when}||)
(I|we|they) (met|saw|visited) {P}( {when}| at the {n}| of {O}|)
have you (seen|met|called|asked) {P}( {rel}| {when}| at {O}|)?
(ask|tell|email|phone|remind|thank|contact|meet|help) {P}( about the {n}| at {O}| {when}|)
please (ask|tell|send|email|contact|remind) {P}( about the {n}| from {O}| in {L}|)
please (visit|call|contact|join) {O}( {when}| in {L}|)
my (brother|friend|uncle|aunt|cousin|wife|husband|son|daughter|neighbour|boss|colleague|\
dentist) {G} (lives in {L}|is {a}|works at {O}|likes {ns}|came {when})
my (brother|friend|uncle|cousin|wife|husband|son|daughter|mother|father) (works for|left|joined|works at|\
hates|studied at) {O}( {when}| in {L}||)
his (brother|wife|mother|friend|sister) {P} (was|is) (a {role}|from {L}|{a}|at {O})
her (husband|father|boss|friend|daughter) {P} (died|arrived|retired|called) {when}
{P} (works|worked) (for|at|with) {O}( in {L}| as a {role}| {when}||)
{P} (joined|left|founded|runs|leads|quit|sued|advises|heads|manages|represents|founded) {O}( {when}| in {L}|\
|| as a {role})
{P} (is|was|became) the (director|founder|president|owner|chief|manager|chairman|CEO|spokesman|voice|\
face) of {O}( {when}||)
{P}, (director|CEO|founder|president|chairman|head|owner) of {O}, (said|told reporters|announced|\
resigned) {when}
{P}, the {a} {role} (of|from) {O}, {v} the {n}
{P}, a {role} (at|with|from|for) {O}, (said|wrote|lives in {L}|died {when}|{v} a {n})
{P} of {O} (said|won|spoke|was {a}|{v} it)( {when}||)
{P} from {L} (won|said|{v}|is|was)( the {n}| a {a} {n})
{P} (is|was) from {L}
{P} (is|was) (a|the) {a} {role}
{P} is a {nat} {role}( from {L}| living in {L}| working for {O}|)
{P} (is|was) (tired|happy|late|ill|right|at home|here {rel}|in the {n})
{P} {v} the {n}( {when}| in {L}|||)
{P} {v} a {a} {n}( {when}| at {O}||)
{P} (will|can|should|might|did not|would) {i} (the|a) {n}( {when}| in {L}||)
{P} (will be|is) in {L} {when}
{P} has (been|lived|worked|stayed) (in|near) {L} since {M}
{P} (has|had) (left|joined|bought|visited|seen|sold) {O}
{P}'s {n} (is|was) {a}
{P}'s {n} (arrived|{v}) (in {L}|{when}|at {O})
{P}'s (mother|father|wife|husband|brother|son), {P}, (lives in {L}|is {a}|died {when})
(the|a) {n} (by|of|from|for|with) {P} (was|is) (in {L}|{a}|here)
(the|this|that) {n} was (written|painted|made|sold|found|designed|built) by {P}( {when}| in {L}||)
the {n} was (bought|sold|built|made|funded|developed|designed) by {O}( {when}| in {L}||)
(I|we) (read|bought|like|wrote) a {n} (by|about) {P}( {when}|)
according to {P}, the {n} (is|was) {a}
according to {O}, the {n} {v} (in {L}|{when}|a {a} {n})
"the {n} is {a}," said {P}( of {O}| {when}|)
"{N} is {a}," {P} (said|told {P}|told {O})( {when}||)
"I {v} the {n}," (she|he|they) said
dear {P}, (thank you for the {n}|we will {i} {when}|the {n} is {a})
hello {G}, (are you in {L} {when}?|how is the {n}?|see you {when})
hi {G}, can you {i} the {n}( {when}||)?
thanks, {G}
best wishes, {P}
yours, {P}, {O}
{T} (said|called|will see you {when}|is in {L}|works at {O}|{v} the {n})
(call|see|ask for|speak to|write to|thank) {T}( at {O}| in {L}| {when}||)
(I have|she has|we had) an appointment with {T}( at {O}| {when}||)
{role} {F} (said|visited {L}|spoke at {O}|resigned {when}|{v} the {n})
the {role} {F} (was born in {L}|died {when}|{v} a {n}|works for {O})
the {nat} {role} {F} (arrived in {L}|spoke {when}|met {P})
{F} ({Y}-{Y}) was a {nat} {role}
{F}, (aged|age) {num}, (was found in {L}|died {when}|{v} the {n})
{F}, {num}, (of|from) {L}, (said|{v} the {n}|was {a})
{P} vs {P} {when}
{P} (beat|defeated|played|faced) {P} in {L}( {when}||)
who is {P}?
who (founded|runs|owns|leads|bought) {O}?
where (is|was) {P}( born| {rel}| from|)?
where is {L}?
where is {O}( based|)?
when did {P} (leave|visit|reach) {L}?
when did {P} (join|leave|found) {O}?
did {P} (call|come|{i} the {n}|go to {L})( {when}||)?
is {P} (in {L}|at {O}|coming|{a})( {when}|)?
why did {O} (sell|close|buy|leave) (the {n}|{L}|{O})?
how far is {K} from {K}?
is {K} (bigger|older|colder|warmer|smaller) than {K}?
{K} is (bigger|smaller|colder|older|warmer|richer|further|nicer) than {K}
{O} (is|was) (bigger|older|richer|better|larger|smaller) than {O}
{O} is (older|bigger|richer) than the {n}
{O} (opened|closed|built|has|bought|plans|announced|sold|runs|owns) (a|the|its) ({a} |){n} in {L}( {when}||)
{O} (opened|closed|has) (offices|shops|factories|a factory|a branch|a lab) in {L} and {L}( {when}||)
{O} (opened|will open) its (first|new) (office|store|plant|factory) {when}( in {L}|)
{O} (acquired|sued|beat|owns|sold|took over|merged with|invested in|overtook|left|funds) {O}( {when}|||)
{O} (acquired|purchased|bought) {O} for {num} (million|billion)( dollars| euros|)( {when}|)
{O} (was|is) (founded|based|established|created|registered) in {L}( {when}| by {P}||)
{O} was founded by {P}( and {P}|)( in {L}|)( {when}|)
{O} (appointed|fired|promoted|sued|employs|praised|pays|dismissed|named) {P}( {when}| in {L}||| as its {role})
{O} has hired {P} (as its {role}|from {O})
{O} (said|announced|reported|confirmed|denied|warned)( {when}|) that the {n} (is|was) {a}
{O} (shares|stock|sales|profits) (rose|fell|dropped|jumped)( by|) {num} percent( {when}||)
shares of {O} (rose|fell|dropped) {when}
{O} and {O} (signed a {n}|are {a}|merged|announced a {n}|{v} the {n}|compete in {L}|will {i} a {n})( {when}||)
{O} and {O} (have|opened) offices in {L}
{O}, {O} and {O} (are {a}|{v} the {n}|fell {when}|have offices in {L})
(the {n} at|a {n} from|the {a} {n} of|a {role} from|the CEO of|the workers at) {O} (is|was|{v}) (the {n}|\
{a}|in {L})
the (deal|contract|interview|lunch|agreement|dispute|call|partnership) with {O} (was|will be|starts|\
ended) {when}
(the meeting|the interview|the lunch|the call|a meeting) with {P} (is|was|starts|begins) (at {O}|{when}|\
in {L})
the {n} with {O} (was|will be|is) ({a}|in {L}|about the {n})
(she|he|I) (works|worked|studied|studies|study|teaches|is|was) (at|for|with) {O}( in {L}| {when}|||)
(she|he) (joined|left|runs|founded|bought|sued) {O}( {when}| in {L}||)
(I|we|they|she|he|you) (use|like|love|hate|bought shares in|left|trust|called|sued) {O}( in {L}||)
(I|we) (bought|ordered|rented|sold) (a|the) {n} from {O}( {when}| in {L}||)
(her|his|my|our) (new |old |)(boss|job|office|team|contract|phone|laptop|car) is (at|from|with) {O}
(a|the) {C} (phone|car|laptop|plane|shop|factory|engineer|spokesman|product|office|employee) {v} (in {L}|\
{when}|the {n})
(the|a) {O} (spokesman|spokeswoman|report|study|team|office) (said|{v}|found) {when}
students (at|of|from) {O} {v} the {n}( {when}||)
(doctors|nurses|researchers|scientists) (at|from) {O} (in {L} |){v} (a|the) {a} {n}( {when}|)
{P} (studied|teaches|taught) {n} at {O}( in {L}|)( {when}||)
{P} graduated from {O} {when}
{P} was (taken|admitted|rushed|sent) to {O}( {when}| in {L}|)
{P} was (hired|fired|promoted|sued|praised|employed) by {O}( {when}||)
{P} (moved|switched|transferred) from {O} to {O}( {when}||)
{P} (left|quit|swapped) {O} for {O}( {when}||)
{P} (sold|gave|offered) {O} to {O}( {when}||)
{P} (plays|played|scored|signed) for {C}( {when}| in {L}|)
{C} (beat|lost to|drew with|played) {C}( {num} to {num}||) {when}
{B} (are|were|is|was) (a band from {L}|formed in {L}|my favourite|{a}|popular in {L}|famous|back)( {when}||)
{B} (played|sang|toured|recorded a {n}|released a {n}|split up|reported|wrote) (in {L}|{when}|last night|)
(I|we|they) (love|saw|like|listened to|heard|read) {B}( in {L}| {when}|||)
{C} (played|toured|recorded) in {L}( {when}|)
{B} and {B} (are|were|played|come) (in|from) {L}
(the singer|the drummer|the guitarist|a fan|an editor|an album) (of|from|by) {B} (came from {L}|is {P}|\
died {when}|was {a})
(I|we|they|she|he|you|people) (live|lived|work|stayed|studied|got lost|met|arrived) in {L}( {when}|\
 with {P}|||)
(she|he) (lives|works|studies|stays|teaches) in {L}( with {P}||)
(I|we|they|she|he) (went|moved|drove|came|travelled|returned|walked|sailed|flew) (to|from) {L}( {when}|\
 with {P}||)
(I|we|they) (are flying|are going|will drive|will go|travel|want to go|have to go|\
plan to go) to {L}( {when}| with {P}||)
(I|we|they|she|he) (flew|drove|travelled|cycled|walked|moved) from {L} to {L}( {when}||)
(I|we|they|she|he) (love|loved|miss|left|hate|like|visited|saw|toured|reached) {L}( {when}|||)
(the|a) (flight|bus|road|ferry|express|coach|tunnel|trip|journey|plane) (to|from) {L} (is late|\
was cancelled|arrived|departs|will leave|takes {num} hours)( {when}|)
(the|a) (train|flight|bus|ferry) from {L} to {L} (was {a}|left|stops in {L}|arrives|is {a})( {when}|)
trains (to|from) {L} (run|stop|leave) {when}
the weather in {L} (is|was|will be) {a}( {when}| {rel}|)
it (rained|snowed|was hot|was {a}) in {L} {when}
(the|a) {n} in {L} (is|was) {a}( {when}||)
(the|a) {n} (in|near|from|outside) {L} {v} (the|a) {n}( {when}||)
the (capital|people|president|population|history|north|streets|king|mayor) of {L} (is {a}|{v} the {n}|\
{v} {when})
{K} is the (capital|largest city|oldest town|centre) of {K}
{L} (is|was) (beautiful|a city in {L}|cold|far away|a {a} {n}|{a}|a {a} country|near {L})( {when}| {rel}|)
{L} (won|lost|beat|played) (the {n}|{L}|against {L})( {when}||)
{L} and {L} (signed a treaty|are at war|are neighbours|{v} the {n}|share a border|are in {L})( {when}||)
{L}, {L} and {L} (are {a}|{v} the {n}|are in {L})
in {L}, (the {n} is {a}|people {i} {ns}|{P} {v} the {n}|it is {a})
in {L}, {O} (opened a {n}|{v} the {n}|is {a})( {when}|)
{K}, {when} - {P} {v} the {n}
{K}, {K}, {DATE}: the {n} {v} a {n}
{K} ({C}) - {O} said {when} that it will {i} the {n}
there (is|was) (a|no) {a} {n} in {L}( {when}||)
there are many {ns} (in|near) {L}
(the|an) (earthquake|storm|fire|flood|election|war|strike|festival) (hit|shook|began in|reached|ended in|\
took place in) {L} {when}
(the|a) {n} (starts|begins|ends|opens|closes|is due|took place|happened|was) {when}
(the|a) (concert|party|exam|deadline|wedding|conference|trial|match) is {when}( in {L}| at {O}||)
(I|we|they|she|he) (will|can|should|must) {i} the {n} {when}
(I|we|they|she|he) {v} (the|a) {n} {when}
(see you|let us meet|call me|I am free|we open|we close|I am away|come back) {when}
{when}, {P} (joined {O}|went to {L}|{v} a {n}|met {P}|was {a})
{when}, {O} (opened in {L}|hired {P}|bought {O}|{v} a {n}|closed)
{when}, (we|I|they|she|he) {v} (the|a) {n}( in {L}| at {O}| with {P}||)
{when}, the {n} (was|will be) {a}
(from {M} to {M}|between {Y} and {Y}|since {M}|until {W}|before {W}|after {M}), {P} (lived in {L}|\
worked for {O}|was {a})
{P} (lived|stayed) in {L} (from {M} to {M}|between {Y} and {Y}|since {M}|until {M})
the {n} of {Y} (was {a}|{v} {L})
the {Y} (election|war|report|season|edition) was {a}
the {W} (meeting|edition|flight|deadline) was cancelled
(is|was) the {n} (open|closed|ready) {when}?
{W} (is|was) (a holiday|{a}|my day off|too late)
{R} (is|was) (a holiday|{a}|my birthday|too late|fine)
(I|we) (start|leave|finish|arrive|return) {when}
the (bus|ferry|boat|ship|flight|coach) (leaves|left|arrives|arrived|goes|went) {when}
the (ship|plane|coach) to {L} (left|goes|sails) {R}
{M} (is|was) (a {a} month|{a}|hot in {L})
my birthday is (on {W}|in {M})
date: {W}
born: {W}, {K}
name: {F}
employer: {C}
location: {K}
from: {F} to: {F} date: {W}
{F}, {C}, {K}
{F} ({C})
{F} ({K})
{F} - {role}, {C}
{F} | {role} at {C} | {K}
{C} ({K}) {v} {C}
{F}, {F}, {F}
{K}, {K}
{K}
{C}
{F}
{DATE}
{P} and I (went to {L}|{v} the {n}|work at {O}|met {when})
(it|this|that) (is|was) {P}( from {O}| in {L}|)
this is {P} (calling|speaking|writing) from {O}
{nat} (troops|voters|officials|police|media) in {L} {v} the {n}( {when}|)
(he|she) speaks {nat} and {nat}
the {nat} (government|president|army|team) {v} the {n}( {when}||)
(police|officials|reporters|voters|workers|students) in {L} {v} (the {n}|{P}|{O})( {when}|)
(president|chancellor|king|queen) {F} (of {L} |)(visited {L}|died|met {P})( {when}|)
(I|we) (ate|bought|sold|like|love|want|need|cook) {ns} and {a} {ns}
(I|we|they|you) (like|want|need|hate|prefer|love) (the |a |)({a} |){n}( and (the |a |){n}|)
{N} {n} (is|was|{v}) {a}
{N} (the|a|my|your|our) {n} (is|was|{v}) {a}
{N} {v} the {n}
{N}, (she|he|they|I|we) {v} the {n}
{N} (is|was|will be) {a} {rel}
{N} {i} the {n} {rel}
{i} the {n}( and {i} the {n}| {rel}|)
{a} {ns} (are|were|{v}) {a}
{ns} (are|were) {a}( {rel}|)
(the|a|my|our|this|every|no) ({a} |){n} {v} (the|a|my) ({a} |){n}( {rel}|)
(the|a) {n} (in|on|under|behind|near) the {n} (is|was) {a}
(the|my) {a} {n} (may|might|will|can|must|could) {i} {rel}
(it|this|that) (may|will|might) be {a} {rel}
you may {i} the {n} {rel}
(may|can|could) (I|we) {i} the {n}?
we march (to the {n}|for {n}|{rel})
(the soldiers|they|the students) march (to|past|through) the {n}
I (will|can|did not|do not) {i} (the {n}|it|them|{rel})
nobody (knows|saw|{v}) (the {n}|why|it)
nothing (is|was) {a}( {rel}|), (I|he|they|we) (said|thought|wrote)
nothing (changed|{v}) (at all|{rel}|in the {n})
(what|why|how|where|when) (is|was) the ({a} |){n}( {rel}|)?
(what|why|how) (do|did|will) (you|we|they) {i} (the {n}|it|{ns})?
(do|did|can|will) you {i} (the|a|my) {n}( {rel}|)?
{rel}, (the {n}|my {n}|everything|nothing|it) (was|is) {a}
(I|she|he|we|they) (said|thought|knew) that (the {n}|it|nothing|{ns}) (is|was|{v}) {a}
(I|she|he|we|they) (am|is|was|were) {a} {rel}
(she|he) said (it|the {n}) was {a} {rel}, {a} and {a}
(there is|there was|there are) (no|a|some) {n} {rel}
{num} {ns} (are|were|{v}) {a}
(it|the {n}) (cost|costs|weighs|took) {num} (dollars|euros|kilos|minutes|hours|percent)
the {n} is {num} (metres|miles|years) (long|away|old)
(chapter|page|room|section|line|step|version|figure) {num} (is|was) {a}
(error|warning|note): the {n} (is|was) {a}
({N} {n}!|{N}!|{N}?|{N} {i} it!)
{a} {n}, {a} {n} and {a} {n}
{n}, {n}, {n} and {n}
(thank you|thanks|sorry|congratulations|good morning|good night|happy birthday)( for the {n}| everyone|\
 {rel}|)
if the {n} (is|was) {a}, {i} the {n}
(across|around|throughout|all over|near|beyond) {L}( and {L}|), {ns} (were|are) {a}
{P} (prefers|preferred) {L} to {L}
the (border|path|railway|ferry|border|distance|motorway) between {L} and {L} (is|was) {a}( {when}|)
on (a|his|her|their) (trip|holiday|journey|way|flight) to {L}, {P} {v} the {n}
{P} (met|saw|called|painted|married) {P} on (a|his|her) (trip|holiday|journey|way) to {L}
{C} (shops|stores|phones|managers|cars|staff|customers|offices) (are|were) {a}( in {L}|)( {when}|)
{O} has (lost|won|signed|ended|extended) (a|its) (case|deal|bid|licence|partnership) (with|\
against) {O}( in {L}|)( {when}|)
(a|the|one) (part|partner|rival|supplier|client|competitor|product) of {O} (is|was|{v}) (the {n}|{a}|in {L})
{P} (quit|left|lost|kept) (his|her) job (at|with) {O}( {when}|)
{P} (sits|serves|sat) on the board of {O}( and {O}|)( in {L}|)
{O} (makes|sells|produces|builds|repairs|imports|exports) {ns}( and {ns}||)( in {L}||)
we (deliver|ship|export|fly|send {ns}) to {L} and {L}( {when}||)
{P} (was named|was elected|will become|was chosen as) {role} of {O}( {when}|)
(an email|a letter|an offer|a call|the bill|good news) from {O} (arrived|came|{v} the {n})( {when}||)
(an email|a letter|a gift|a call|a message|a postcard) from {P} (arrived|came|{v} the {n})( from {L}||\
)( {when}||)
(everyone|people|tourists|students|children|farmers) (in|from) {L} (like|likes|know|knows|prefer|eat|buy|\
speak) {ns}
{O} (moved|expanded|delivers|ships|withdrew|retreated|exports) (to|into|from) {L}( and {L}||)( {when}||)
(a|the) storm (moved|swept|spread) (across|through|over|towards) {L}( and {L}||)( {when}|)
both {L} and {L} (are|were) {a}
both {P} and {P} (are|were|{v}) {a}
both {O} and {O} (are|were) (owned by {P}|sued by {O}|{a})
neither {P} nor {P} {v} the {n}
either {P} or {P} will {i} the {n}
{P} was (elected|chosen|named) (mayor|governor|king|queen|president) of {L}( {when}|)
the (people|children|citizens|inhabitants|farmers|voters) of {L} (are|were|{v}) {a}
he was (accused|suspected) of {i}ing the {n}
{P} was (accused|suspected|tired) of {i}ing the {n}( by {P}| by {O}|)
the {n} (is|was) {a}, {P} (said|added|explained|noted|claimed|argued|wrote|joked)( {when}||)
it (is|was) {a}, {P} (said|added|noted|admitted) (in {L}|{when}|of {O})
{O} (will|may|wants to|plans to|must|is going to|is about to|tried to) (close|sell|open|build|hire|pay|\
launch|produce|move|raise prices|lay off workers)( a {n}| {num} {ns}||)( in {L}||)( {when}||)
{O} (lost|earned|raised|spent|paid|owes|donated) {num} (million|billion|thousand)( dollars| euros| pounds|\
)( {when}||)
{O} (pays|owes|offered|sent|gave|awarded|sold|lent) {P} (a|the) {a} {n}( {when}||)
{O} (laid off|dismissed|recruited|employed) {num} (people|workers|engineers)( in {L}|)( {when}|)
(a judge|the police|a committee|the government|a lawyer|a customer|the tax office) (sued|fined|investigated|\
accused|charged|banned|warned) {O}( in {L}|)( {when}|)
(a judge|the police|a lawyer|the government|the army) (arrested|questioned|charged|freed|accused|\
sentenced) {P}( in {L}|)( {when}|)
the (government|council|police|court|parliament) (of|in) {L} (banned|fined|thanked|invited|arrested) ({P}|\
{O})( {when}||)
{P} (gave|lent|sent|showed|sold|offered|promised) {P} (a|the) ({a} |){n}( {when}||)
{P} (gave|sent|sold|offered|showed) (a|the) {n} to {P}( {when}| in {L}|)
{P} (told|reminded|warned|assured|convinced) {P} (that the {n} was {a}|about {O}|to {i} the {n}|\
that {O} had closed|about {L})
{P} (told|warned|informed) {O} (that the {n} was {a}|about the {n}|{when})
{P} (waited for|looked at|laughed at|smiled at|argued with|danced with|lives with|walked with|spoke with|\
agreed with|fell in love with|stayed with|played with|worked with) {P}( in {L}||| {when})
(I|we|she|he|they) (waited for|laughed at|argued with|danced with|live with|spoke with|agree with|\
had coffee with|had lunch with|went out with) {P}( and {P}||)( in {L}| {when}||)
(lunch|coffee|tea|a walk|breakfast) with {P}( and {P}|)( in {L}|)( {when}|)
{P} (forgot|lost|found|broke|hid|stole|bought|washed|cooked|ate|drank|wanted|dropped|needs|has|opened) (the|\
a|his|her) ({a} |){n}( again|| {when}| in {L}|), (and|so|but) (the {n} was {a}|{P} {v} it|he left|she left|\
we laughed)
{P} (never|always|often|rarely|once|still|also|already|finally) {v} (the|a) {n}( in {L}| {when}||)
{P} (never|always|often|rarely|once|still|also) (lived|worked|studied|slept) in {L}
{P} (smiled|laughed|cried|slept|waited|sang|shouted|nodded|left|agreed|disagreed|lied|apologised|hesitated|\
fell asleep)( {when}| {rel}||)
{P} and {P} (smiled|laughed|slept|waited|agreed|are {a}|were {a}|{v} the {n}|have two children|\
got married)( {when}||)
{P}, (now|formerly|once|originally|currently) (in {L}|at {O}|from {L}|a {role}|with {O}), {v} (the|\
a) {n}( {when}||)
{P}, (his|her) (wife|husband|son|daughter|brother) {G} and {G} (live in {L}|went to {L}|{v} the {n})
before (joining|founding|leaving) {O}, {P} (worked for {O}|lived in {L}|was a {role})
(after|before) (visiting|moving to|reaching|seeing) {L}, {P} (worked for {O}|lived in {L}|{v} a {n}|died)
(while|when|because) {P} was (in {L}|at {O}|{a}), {P} {v} the {n}
when {P} (arrived|left|came home|died|called|retired), the {n} was {a}
if {P} (calls|comes|asks|wins|agrees), {i} the {n}
(the|a) {n} (belongs to|was for|came from|is about|was named after) {P}
(she|he|it|the {n}) was (in trouble|on the table|in danger|in love|at risk|for sale|on fire|out of {n}|\
at work|on time|in charge)
(we|they|I|you) (want|plan|try|need|have|like|used) to {i} (into|in|at|on|for|with) (the {n}|{ns}|{n})
(she|he|they) (talked|spoke|read|thought|wrote|dreamt|knew) about {ns} and {ns}
{P} (talked|spoke|read|thought|wrote|dreamt|knew|is known) (about|for) {ns}( at {O}| in {L}||)
the {n} was (taken|stolen|broken|eaten|sent|moved|driven) (from|to|by|into|with|in|at) (the|a) {n}
(headquarters|managers|workers|engineers|lawyers|customers) of {O} (are {a}|are in {L}|{v} the {n})
(the head office|the factory|the main office|a subsidiary) of {O} (is|was) in {L}
{O}, (a|the) ({nat} |{a} |)(company|bank|firm|agency|startup|retailer|hospital|school|\
club), (is based in {L}|{v} the {n}|closed {when})
the ({nat} |{a} |)(company|bank|firm|agency|startup|retailer|university|newspaper|hospital|\
club) {O} (is based in {L}|{v} the {n}|closed {when}|hired {P})
the ({nat} |{a} |)(city|town|village|port|region|island) of {L} (is {a}|{v} the {n}|was flooded {when})
the ({nat} |{a} |)(city|town|village|capital) {K} (is {a}|{v} the {n})
{O}'s (profits|workers|lawyers|CEO|new {n}|share price|customers|headquarters) (is|are|was|were) {a}
{L}'s (president|economy|weather|mayor|army|population|largest city|government|airport) (is|was|\
{v}) (the {n}|{a})
(buy|sell|download|order|get|rent) (a|the) {n} (from|at) {O}( {when}|)
(does|did|will|can|would) {O} (sell|make|buy|own|pay|hire|ship|produce) (the |a |){n}( in {L}| to {L}||)?
does {P} (live|work|study|stay) in {L}?
does {P} (work|study|teach) (at|for) {O}?
did {O} (buy|acquire|sell|sue) {O}( {when}|)?
I (think|hope|heard|believe|doubt) (that |)({P} is {a}|{O} bought {O}|{P} lives in {L}|\
{O} will close its {n}|{L} is {a})
people say (that |)({P} is {a}|{O} wants to buy {O}|{P} lives in {L}|{O} is {a})
a new {n} (by|from) {O} (opens|starts|arrives) (in {L}|{when})
(it|the {n}) (takes|took) {num} (hours|minutes|days) (from|to get from) {L} to {L}
the road (from|between) {L} (to|and) {L} is {a}
somewhere (in|near|between) {L}( and {L}|), a {n} {v}
(north|south|east|west|outside|close to the centre) of {L}, the {n} is {a}
{P} (bought|rented|built|sold|owns) a (house|flat|farm|{n}) (in|near|outside) {L}( {when}||)
{P} (is on|was on|took) (the train|a bus|the plane|a flight|the road) (to|from) {L}( {when}||)
(winter|summer|spring|autumn|life|school|traffic) in {L} is {a}
all (flights|trains|buses|roads) to {L} (are|were) (closed|cancelled|full|late)( {when}||)
the {role} (thanked|met|praised|introduced|called|married) {P}( {when}| in {L}||)
the {role} (thanked|asked|told|introduced) {P} and {P}( {when}| in {L}||)
{O} (thanked|invited|honoured) {P} for the {n}( {when}||)
{X} (is|was|are) (a |the |my |){a}( {n}|)( {rel}|)
{X} (is|was) a {n} (for|of|in|with|written in) ({ns}|{X}|the {n})
(I|we|they|you|she|he) (use|like|learn|wrote|read|know|love|need|{v}|want) {X}( and {X}||| {rel}| {when})
(the|a|my|this|your|an) {X} ({n} |){v} (the {n}|{when}|in {L}|it)
(the|a|my|this|your|an) ({a} |){X} ({n} |)(is|was) {a}
(the|a|my) {n} (in|of|for|about|with|written in) {X} (is|was) {a}
{P} (uses|likes|wrote|knows|bought|learned|{v}) (the |a |){X}( in {L}| {when}| at {O}||)
{O} (uses|sells|supports|makes|dropped|offers) {X}( {ns}||)( {when}||)
(she|he|I) (think|thought|said|thinks) (that |){X} and {X} (are|were) {a}( {ns}|)
what is {X}?
do you (use|like|know|have) {X}?
{X} said (that |)(the {n} is {a}|{P} {v} the {n}|it was {a})
(ask|call|tell) {X}( {when}||)
when the {n} {v}, the {n} was {a}
""")

# A reader must be able to tell each entity's type from the sentence, even for a name that means nothing to them.
HELD_OUT = _lines("""
{P} spent (three years|a month|the winter) in {L} before moving to {L}
In {M}, {P} resigned from {O}
{P} gave a talk about {ns} at {O} on {W}
Nobody at {O} had ever heard of {P}
The {role} introduced {P} to {P} during a visit to {L}
{O} will cut {num} jobs in {L}, {P} warned
Our flight from {L} landed in {L} on {W}
{P} was appointed {role} of {O} in {M}
After leaving {O}, {P} returned to {L}
We are having dinner with {P} and {P} on {W}
Could you forward this {n} to {P} at {O}?
{P} has never been to {L}
A court in {L} fined {O} {num} million euros in {M}
Researchers at {O} found a {a} {n} in {M}
{P} became famous in {L} after {Y}
{O} is planning to expand into {L} and {L}
The headquarters of {O} are in {L}
{B} recorded their first album in {L} in {M}
My grandmother grew up in {L} and moved to {L} in {Y}
{P} told {P} that {O} was in trouble
{T} will be on holiday until {W}
Have a look at what {P} did for {O}
The {n} was stolen from a small town near {L} in {M}
{P} won the {n} for the people of {L} in {Y}
It has been raining in {L} since {W}
{O} lost its contract with {O} on {W}
The mayor of {K} thanked {P} for the {n}
{P} sat next to {P} on the train to {L}
{P} sold the company to {O} in {M}
They celebrated the {n} in {L} on {W}
The {nat} {role} {F} moved to {L} in {Y}
You should talk to {T} about the {n}
{O} paid {P} a {a} salary
{P} bought a house near {L} {R}
The office in {L} will be closed {R}
{P}, now at {O}, started out as a {role} in {L}
Everybody in {L} loves {B}
Is it true that {O} wants to buy {O}?
Ever since {M}, {P} has wanted to live in {L}
{G} forgot the {n} again, so {G} had to {i} another one
Send the {n} to the lawyers of {O} before {W}
It is a drive of two hours from {K} to {K}
A new branch of {O} opens in {L} {R}
Trains between {L} and {L} were delayed after the storm on {W}
{P} apologised to {P} and went back to the {n}
Investors in {O} are worried about the {a} {n}
{C} shareholders met in {L} on {W}
I have known {P} since we were children in {L}
{P} and her sister {G} opened a {n} in {L} in {Y}
Two people from {O} came to see {P} {R}
The book tells how {P} walked across {L} in {Y}
Did you know that {P} used to be a {role}?
{O} was accused of hiding the {n} from {O}
No one in {L} expected the {n} to be {a}
{T} signed the letter on behalf of {O} on {W}
Heavy snow fell over {L} and {L} in {M}
The trial of {P} begins in {L} on {W}
As a student at {O}, {P} wrote about {ns}
The new {n} from {O} can be ordered until {W}
If {P} asks, tell {P} that the {n} is {a}
He carried the {n} up the stairs and sighed
What a {a} {n} you have there!
There was nobody in the {n}, only a {a} {n}
She put the {n} next to the {a} {n} and {v} again
Why would anyone {i} a {n} like that?
Most {ns} are {a}, but this one is {a}
Do not {i} the {n} while the {n} is {a}
It may rain later, so take your {n}
""")
