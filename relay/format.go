package relay

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// format is how one of the providers' APIs is read: what a request of it may use, and what
// an answer of it has used.
type format struct {
	name string
	// counts are the members of a request that bound its output.
	counts map[string]bool
	// bound is the most output tokens of all answers together, and how many answers there
	// are; false: the request sets none.
	bound    func(counts map[string]int64) (most, answers int64, has bool)
	noOutput bool // its answers have no output tokens
	// blocks are the paths of objects that may be images, audio or files, and payloads the
	// members of them that are objects with the bytes.
	blocks, payloads map[string]bool
	mediaKind        func(*block) string // image, audio or file; empty: none of them
	// media is the most that one of each may cost, in tokens.
	media map[string]int64
	// meter makes what reads an answer.
	meter func() meter

	once  sync.Once
	known map[string]bool // paths that matter, and those on the way to them
	names map[string]bool // names of the top that matter, in lower case
}

// elsewhere is the path of all that does not matter. Paths are kept no longer than they
// matter, since a body could make them as long as it likes.
const elsewhere = "-"

// learn makes the lists of what matters.
func (f *format) learn() {
	f.known, f.names = map[string]bool{}, map[string]bool{}
	add := func(path string) {
		top, _, _ := strings.Cut(path, ".")
		f.names[strings.ToLower(top)] = true
		for ; path != ""; path = path[:max(0, strings.LastIndexByte(path, '.'))] {
			f.known[path] = true
		}
	}
	for _, path := range []string{"model", "stream", "background", optionsName} {
		add(path)
	}
	for _, paths := range []map[string]bool{f.counts, f.blocks, otherModels} {
		for path := range paths {
			add(path)
		}
	}
	for block := range f.blocks {
		for name := range f.payloads {
			add(block + "." + name)
		}
	}
}

// join is the path of a member.
func (f *format) join(path, name string) string {
	f.once.Do(f.learn)
	if path != "" {
		name = path + "." + name
	}
	if path == elsewhere || !f.known[name] {
		return elsewhere
	}
	return name
}

// plain refuses a name of the top that differs from one that matters in nothing but case: some
// servers take it for that one.
func (f *format) plain(name string) error {
	f.once.Do(f.learn)
	if lower := strings.ToLower(name); lower != name && f.names[lower] && !f.known[name] {
		return fmt.Errorf("the member %q may be taken for %q", name, lower)
	}
	return nil
}

// largestOutput stands for the output of each of several answers without a bound, in tokens:
// as much as the largest of the common models give.
const largestOutput = 128_000

func set(names ...string) map[string]bool {
	all := map[string]bool{}
	for _, name := range names {
		all[name] = true
	}
	return all
}

// maxBound and maxAnswers are more than any model gives.
const (
	maxBound   = 1 << 40
	maxAnswers = 1000
)

// boundBy is a bound that the largest of some members sets, times what others say. Of two
// spellings of one thing a server may take either.
func boundBy(times []string, members ...string) func(map[string]int64) (most, answers int64, has bool) {
	return func(counts map[string]int64) (most, answers int64, has bool) {
		answers = 1
		for _, name := range times {
			answers = max(answers, min(counts[name], maxAnswers))
		}
		for _, member := range members {
			if n, set := counts[member]; set && n >= 0 {
				most, has = max(most, min(n, maxBound)), true
			}
		}
		return most * answers, answers, has
	}
}

// byType is the kind of media that a block's type says, for Anthropic and OpenAI.
func byType(b *block) string {
	switch b.kind {
	case "image", "image_url", "input_image", "computer_screenshot":
		return "image"
	case "input_audio":
		return "audio"
	case "document", "file", "input_file":
		return "file"
	}
	return ""
}

// byMime is the kind of media that a part's MIME type says, for Gemini.
func byMime(b *block) string {
	switch {
	case !b.has:
		return ""
	case strings.HasPrefix(b.mime, "image/"):
		return "image"
	case b.mime == "application/pdf":
		return "pdf"
	}
	return "file"
}

// Gemini takes each name in two spellings.
var (
	geminiBounds = []string{"generationConfig.maxOutputTokens", "generationConfig.max_output_tokens", "generation_config.maxOutputTokens", "generation_config.max_output_tokens"}

	geminiAnswers = []string{"generationConfig.candidateCount", "generationConfig.candidate_count", "generation_config.candidateCount", "generation_config.candidate_count"}
)

// The formats, with the most that media cost in each: what the largest image takes, or a
// document of as many pages, or a recording of such a length, as the provider accepts; or
// all of the context, where that is less.
var (
	// Source: https://platform.claude.com/docs/en/build-with-claude/vision
	anthropicMessages = format{
		name: "anthropic", counts: set("max_tokens"), bound: boundBy(nil, "max_tokens"),
		blocks: set("messages.content", "messages.content.content"), payloads: set("source"), mediaKind: byType,
		media: map[string]int64{"image": 4784, "file": 200_000},
		meter: func() meter { return &anthropicMeter{} },
	}
	// Source: https://developers.openai.com/api/docs/guides/images-vision
	openAIChat = format{
		name: "chat", counts: set("max_tokens", "max_completion_tokens", "n"), bound: boundBy([]string{"n"}, "max_completion_tokens", "max_tokens"),
		blocks: set("messages.content"), payloads: set("image_url", "input_audio", "file"), mediaKind: byType,
		media: map[string]int64{"image": 48_200, "audio": 128_000, "file": 272_000},
		meter: func() meter { return &chatMeter{} },
	}
	openAIResponses = format{
		name: "responses", counts: set("max_output_tokens"), bound: boundBy(nil, "max_output_tokens"),
		blocks: set("input.content", "input.output"), payloads: set("input_audio"), mediaKind: byType,
		media: map[string]int64{"image": 48_200, "audio": 128_000, "file": 272_000},
		meter: func() meter { return &responsesMeter{} },
	}
	openAIEmbeddings = format{
		name: "embeddings", bound: boundBy(nil), noOutput: true,
		mediaKind: func(*block) string { return "" },
		meter:     func() meter { return &chatMeter{} },
	}
	// Source: https://ai.google.dev/gemini-api/docs/tokens
	geminiContent = format{
		name: "gemini", counts: set(slices.Concat(geminiBounds, geminiAnswers)...), bound: boundBy(geminiAnswers, geminiBounds...),
		blocks: set("contents.parts", "contents.parts.functionResponse.parts", "contents.parts.function_response.parts", "systemInstruction.parts", "system_instruction.parts"), payloads: set("inlineData", "inline_data", "fileData", "file_data"), mediaKind: byMime,
		media: map[string]int64{"image": 4_200, "pdf": 258_000, "file": 1_048_576},
		meter: func() meter { return &geminiMeter{} },
	}
	// freeContent is of requests that cost nothing: only their model matters.
	freeContent = format{name: "free", bound: boundBy(nil), noOutput: true, mediaKind: func(*block) string { return "" }}
)
