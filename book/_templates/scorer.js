/* How the search orders its results: Sphinx's own scores, and a lesson before a reference page. */
var Scorer = {
  score: ([docName, , , , score]) => score + (docName.startsWith("notebooks/") ? 1 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
