// Validates documents with ajv in its strict mode: a line of JSON in, a line of JSON out.
//
// The first line holds the schema and its draft; each further one a document. The answer to the first is null or what
// ajv has against the schema, the answers to the others are true or false.
"use strict";

const readline = require("node:readline");

const DRAFTS = { "7": require("ajv"), "2020-12": require("ajv/dist/2020") };
// What editors read; ajv's strict mode refuses keywords that nobody has told it.
const EDITOR_KEYWORDS = ["markdownDescription", "enumDescriptions", "errorMessage", "doNotSuggest"];

let validate = null;
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  let answer = null;
  if (validate) {
    answer = validate(JSON.parse(line));
  } else {
    const { schema, draft } = JSON.parse(line);
    const ajv = new DRAFTS[draft].default({ strict: true, allErrors: false });
    ajv.addVocabulary(EDITOR_KEYWORDS);
    try {
      validate = ajv.compile(schema);
    } catch (error) {
      answer = error.message;
    }
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
