package relay

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// asked is what the relay needs to know of a request's body.
type asked struct {
	model      string
	stream     bool
	background bool   // OpenAI: answered later, without usage
	bound      *int64 // most output tokens, of all answers together; nil: the request sets none
	estimate   Estimate

	options    jsontext.Value // OpenAI's stream_options; nil: none
	optionsAt  int64          // where they begin
	first      int64          // where the body's first member begins
	usageAsked bool           // the client wants the chunk that tells the usage
}

// textCount counts text as it may cost tokens.
type textCount struct{ ascii, other int64 }

// bytesPerToken is how many bytes of ASCII are taken for a token: few, so that the count
// covers what a tokenizer makes of it. Of other text each byte is.
const bytesPerToken = 3

func (c *textCount) tokens() int64 { return (c.ascii+bytesPerToken-1)/bytesPerToken + c.other }

func (c *textCount) add(o textCount) {
	c.ascii += o.ascii
	c.other += o.other
}

// countText counts a JSON value or plain text. An escape \u1234 counts as the three bytes
// that it stands for.
func countText[T ~string | ~[]byte](text T) (c textCount) {
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] >= 0x80:
			c.other++
		case text[i] == '\\' && i+5 < len(text) && text[i+1] == 'u':
			c.other += 3
			i += 5
		default:
			c.ascii++
		}
	}
	return c
}

// promptOverhead is what a provider adds of its own to a request, in tokens: the frame of
// the messages, and the instructions for tools.
// Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview
const promptOverhead = 600

// errNotRead begins the errors of bodies that cannot be read.
var errNotRead = errors.New("the request's body cannot be read as JSON")

// readRequest reads a body once, from its start to its end. Members may come in any order;
// a name that comes twice is refused, since the provider might take the other one.
func readRequest(f *format, r io.Reader) (asked, error) {
	s := &scanner{format: f, dec: jsontext.NewDecoder(r)}
	if kind := s.dec.PeekKind(); kind != '{' {
		if _, err := s.dec.ReadToken(); err != nil {
			return asked{}, fmt.Errorf("%w: %w", errNotRead, err)
		}
		return asked{}, fmt.Errorf("%w: it must be an object", errNotRead)
	}
	top := &block{}
	if err := s.object("", top); err != nil {
		return asked{}, fmt.Errorf("%w: %w", errNotRead, err)
	}
	s.text.add(top.payload)
	if _, err := s.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return asked{}, fmt.Errorf("%w: something follows the object", errNotRead)
	}
	return s.result()
}

// scanner walks through a request's body.
type scanner struct {
	format *format
	dec    *jsontext.Decoder
	asked  asked
	text   textCount
	media  int64 // tokens of images, audio and files
	cache  string
	counts map[string]int64 // members that are numbers, by their path
}

// block is an object on the way, as far as it matters to what it costs.
type block struct {
	kind    string    // its member type
	mime    string    // its member media_type or mimeType
	payload textCount // of members that may be the bytes of an image or a file
	has     bool      // it has such a member
	source  string    // kind of the object that holds the payload
}

// maxDepth is how deep a body may nest: deeper than any provider's own.
const maxDepth = 100

// object walks through an object that lies at a path of names; arrays have no part in a path.
func (s *scanner) object(path string, b *block) error {
	if s.dec.StackDepth() > maxDepth {
		return fmt.Errorf("it nests deeper than %d levels", maxDepth)
	}
	if _, err := s.dec.ReadToken(); err != nil {
		return err
	}
	if path == "" {
		s.asked.first = s.dec.InputOffset()
	}
	for s.dec.PeekKind() != '}' {
		token, err := s.dec.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		s.text.add(countText(name))
		if path == "" {
			if err := s.format.plain(name); err != nil {
				return err
			}
		}
		if err := s.value(s.format.join(path, name), name, b); err != nil {
			return err
		}
	}
	_, err := s.dec.ReadToken()
	return err
}

// value walks through the value of a member of an object.
func (s *scanner) value(path, name string, in *block) error {
	switch s.dec.PeekKind() { //nolint:exhaustive // the rest are single values
	case '{':
		if name == "cache_control" || path == optionsName {
			raw, err := s.dec.ReadValue()
			if err == nil {
				s.special(name, raw)
			}
			return err
		}
		return s.inner(path, name, in)
	case '[':
		if s.dec.StackDepth() > maxDepth {
			return fmt.Errorf("it nests deeper than %d levels", maxDepth)
		}
		if path == optionsName {
			return errors.New("stream_options must be an object")
		}
		if _, err := s.dec.ReadToken(); err != nil {
			return err
		}
		for s.dec.PeekKind() != ']' {
			if err := s.value(path, "", in); err != nil {
				return err
			}
		}
		_, err := s.dec.ReadToken()
		return err
	}
	raw, err := s.dec.ReadValue()
	if err != nil {
		return err
	}
	switch {
	case path == optionsName && raw.Kind() != 'n':
		return errors.New("stream_options must be an object")
	case path == optionsName:
		s.special(name, raw)
	case otherModels[path] && raw.Kind() == '"':
		return fmt.Errorf("%s names a second model, which cannot be metered", path)
	}
	switch raw.Kind() { //nolint:exhaustive // null costs nothing
	case '"':
		s.string(path, name, raw, in)
	case '0':
		s.text.ascii += max(bytesPerToken, int64(len(raw))) // of a list of tokens each is one
		if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil && s.format.counts[path] {
			s.count(path, n)
		}
	case 't', 'f':
		s.text.ascii += bytesPerToken
		switch path {
		case "stream":
			s.asked.stream = raw.Kind() == 't'
		case "background":
			s.asked.background = raw.Kind() == 't'
		}
	}
	return nil
}

func (s *scanner) count(path string, n int64) {
	if s.counts == nil {
		s.counts = map[string]int64{}
	}
	if before, twice := s.counts[path]; twice { // of a path that lies in a list
		n = max(n, before)
	}
	s.counts[path] = n
}

// special reads the small objects that say how the request is to be treated.
func (s *scanner) special(name string, raw jsontext.Value) {
	if name == "cache_control" {
		s.cache = max(s.cache, "5m")
		if strings.Contains(string(raw), `"1h"`) {
			s.cache = "~1h" // sorts after 5m
		}
		return
	}
	s.asked.options, s.asked.optionsAt = raw.Clone(), s.dec.InputOffset()-int64(len(raw))
}

// inner walks through an object within another. What may be a picture's bytes is told by
// where it lies and by what its block says that it is.
func (s *scanner) inner(path, name string, in *block) error {
	own := &block{}
	if err := s.object(path, own); err != nil {
		return err
	}
	switch {
	case s.format.blocks[path]:
		s.text.add(own.cost(s))
	case s.format.payloads[name] && s.format.blocks[strings.TrimSuffix(path, "."+name)]:
		in.payload.add(own.payload)
		in.has, in.source, in.mime = true, own.kind, own.mime
	default:
		s.text.add(own.payload)
	}
	return nil
}

// cost is the text of a block; what is no text is added to the media.
func (b *block) cost(s *scanner) textCount {
	kind := s.format.mediaKind(b)
	if kind == "" || b.source == "text" || b.source == "content" {
		return b.payload
	}
	s.media += s.format.media[kind]
	return textCount{}
}

// string counts a text, unless it may be the bytes of a picture: then its block decides.
func (s *scanner) string(path, name string, raw jsontext.Value, in *block) {
	switch name {
	case "type":
		in.kind = unquoted(raw)
	case "media_type", "mimeType", "mime_type":
		in.mime = unquoted(raw)
	}
	if path == "model" {
		s.asked.model = unquoted(raw)
	}
	if payloadNames[name] {
		in.payload.add(countText(raw))
		in.has = true
		return
	}
	s.text.add(countText(raw))
}

// optionsName is OpenAI's member that says how a stream is told.
const optionsName = "stream_options"

// otherModels are members by which a request may use another model than the one that it is
// admitted for: tools that ask one, and what stands in for it.
var otherModels = set("tools.model", "models", "fallbacks", "fallbacks.model", "route.model")

// maxUnquoted is how long a text may be that is looked at, in bytes.
const maxUnquoted = 1000

// payloadNames are the members that hold the bytes or the address of a picture or a file.
var payloadNames = map[string]bool{"data": true, "url": true, "image_url": true, "file_data": true, "file_url": true, "fileUri": true, "file_uri": true}

func unquoted(raw jsontext.Value) string {
	if len(raw) > maxUnquoted {
		return string(raw) // is none of those that are looked for, and too long for a model
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return ""
	}
	return string(text)
}

// result puts together what was read.
func (s *scanner) result() (asked, error) {
	a := s.asked
	n, answers, has := s.format.bound(s.counts)
	if has {
		a.bound = &n
	}
	input := s.text.tokens() + s.media + promptOverhead
	switch s.cache {
	case "":
		a.estimate.Input = input
	case "5m":
		a.estimate.CacheWrite = input
	default:
		a.estimate.CacheWrite1h = input
	}
	if a.estimate.Output = a.bound; !has && answers > 1 {
		most := answers * largestOutput
		a.estimate.Output = &most
	}
	if s.format.noOutput {
		a.estimate.Output = new(int64)
	}
	var options map[string]jsontext.Value
	if a.options != nil {
		if err := jsonv2.Unmarshal(a.options, &options); err != nil {
			return a, fmt.Errorf("%w: stream_options: %w", errNotRead, err)
		}
	}
	a.usageAsked = string(options["include_usage"]) == "true"
	return a, nil
}

// askForUsage is what makes OpenAI's chat tell the usage of a stream, for a body that does
// not ask for it.
func (a asked) askForUsage() (patch, error) {
	if a.options == nil {
		return patch{a.first, a.first, `"stream_options":{"include_usage":true},`}, nil
	}
	var options map[string]jsontext.Value
	if err := jsonv2.Unmarshal(a.options, &options); err != nil {
		return patch{}, fmt.Errorf("%w: stream_options: %w", errNotRead, err)
	}
	if options == nil { // they were null
		options = map[string]jsontext.Value{}
	}
	options["include_usage"] = jsontext.Value("true")
	with, err := jsonv2.Marshal(options)
	if err != nil {
		return patch{}, fmt.Errorf("encoding stream_options: %w", err)
	}
	return patch{a.optionsAt, a.optionsAt + int64(len(a.options)), string(with)}, nil
}
