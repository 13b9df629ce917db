"""`ner`: a small named-entity tagger for English, text in, spans of PER, ORG, LOC and DATE out.

What it is. Words become embedded word ids and hashed pieces of spelling; four dilated convolutions over the words,
then one score per BIOES tag, decoded with Viterbi's algorithm. 0.78 million parameters, stored as float16 in 1.6 MB.

Method. Strubell et al., "Fast and Accurate Entity Recognition with Iterated Dilated Convolutions" (EMNLP 2017);
Bojanowski et al., "Enriching Word Vectors with Subword Information" (TACL 2017); BIOES tags after Ratinov and Roth,
"Design Challenges and Misconceptions in Named Entity Recognition" (CoNLL 2009).

How it was trained. `python -m inferd.models.ner.train`, from nothing and from a fixed seed, on 640 000 sentences that
`data.py` makes from about 350 templates and lists of real and made-up names; no text was copied from anywhere.

What counts. "Dr." and other short titles belong to a person, spelled-out ones ("President") do not. "the" belongs to
bands and newspapers only. Years, months, days of the month, weekdays, tomorrow and yesterday are dates; "today",
"last year" and times of day are not.

How good it is. F1 (exact span and type) on 2000 held-out sentences, whose templates and names training never saw:
PER 0.92, ORG 0.89, LOC 0.94, DATE 1.00, all together 0.94 (stored as the weights' metadata: f1_PER, ..., f1_all).
Templates were added to the training material after a look at mistakes on held-out sentences, so read that as a
development score. The sentences are made by the same generator, too: on edited prose it will be lower. All of the 20
everyday sentences in the tests are right. Its weak spot is the type of an unknown name where the context says little.
"""

from .model import Ner

__all__ = ["Ner"]
