package price

import (
	"regexp"
	"strings"
)

var (
	bedrockVersion = regexp.MustCompile(`-v\d+(:\d+)?$`)
	plainVersion   = regexp.MustCompile(`-v\d+:\d+$`)
	contextMarker  = regexp.MustCompile(`\[[^\]]*\]$`)
	region         = regexp.MustCompile(`^(us|eu|ap|apac|au|jp|ca|sa|global|us-gov|[a-z]{2}(-gov)?-[a-z]+-\d)\.`)
	dateSuffix     = regexp.MustCompile(`-(\d{8}|\d{4}-\d{2}-\d{2})$`)
)

// Normalize is the model name that rollups group by: trimmed; a name from
// Bedrock (one that contains .anthropic. or .claude) without region, anthropic.
// and -vN:M; another without -vN:M and :latest.
func Normalize(model string) string {
	model = strings.TrimSpace(model)
	if strings.Contains(model, ".anthropic.") || strings.Contains(model, ".claude") {
		if _, rest, ok := strings.Cut(model, "."); ok {
			model = rest
		}
		model = strings.TrimPrefix(model, "anthropic.")
		return bedrockVersion.ReplaceAllString(model, "")
	}
	model = strings.TrimSuffix(model, ":latest")
	return plainVersion.ReplaceAllString(model, "")
}

// Fold makes names equal that differ only in case, in _, - and @ as the
// separator, or in a context marker such as [1m] at the end.
func Fold(model string) string {
	model = contextMarker.ReplaceAllString(strings.TrimSpace(model), "")
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '@' {
			return '-'
		}
		return r
	}, strings.ToLower(model))
}

// Comparable is a model name as allow lists compare it: normalised and folded.
func Comparable(model string) string {
	return Fold(Normalize(contextMarker.ReplaceAllString(strings.TrimSpace(model), "")))
}

// spellings are the folded names that a received name may stand under in the
// catalogue, the closest first: as it is, without the provider's path, without
// the Bedrock region, normalised, and the model that it is a provider's alias of.
func spellings(model string) []string {
	name := Fold(model)
	found := []string{name}
	add := func(s string) {
		if s != "" && s != found[len(found)-1] {
			found = append(found, s)
		}
	}
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
		add(name)
	}
	name = region.ReplaceAllString(name, "")
	add(name)
	name = Fold(Normalize(name))
	add(name)
	add(aliases()[name])
	return found
}

// identity is a model apart from how its name is spelled: the name without date, and
// the date as digits, empty where the name has none.
func identity(model string) (base, date string) {
	names := spellings(model)
	return undated(names[len(names)-1])
}

// Denied is an entry of a deny list in the form that Catalogue.Names compares: without
// a date, where the entry has none, it bars every date of the model.
func Denied(entry string) string {
	return join(identity(entry))
}

func join(base, date string) string {
	if date == "" {
		return base
	}
	return base + "-" + date
}

// NameSeparator stands between names.
const NameSeparator = "\x1f"

// maxNames bounds the answers of Names that are kept: callers choose the models.
const maxNames = 4096

// Names are the names under which a deny list bars a model, separated by NameSeparator:
// without its date, and with it. A name without a date stands for the one that Lookup
// takes, the newest.
func (c *Catalogue) Names(model string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names, known := c.names[model]
	if !known {
		if names = c.findNames(model); c.names == nil || len(c.names) >= maxNames {
			c.names = map[string]string{}
		}
		c.names[model] = names
	}
	return names
}

func (c *Catalogue) findNames(model string) string {
	base, date := identity(model)
	for _, entry := range c.byBase[base] {
		if date == "" {
			_, date = undated(Fold(entry)) // the newest comes first
		}
	}
	if date == "" {
		return base
	}
	return base + NameSeparator + join(base, date)
}

// undated takes a date, or -latest, off the end of a folded name. The date is given as
// digits; empty: there was none.
func undated(folded string) (base, date string) {
	if base, latest := strings.CutSuffix(folded, "-latest"); latest {
		return base, ""
	}
	at := dateSuffix.FindStringIndex(folded)
	if at == nil {
		return folded, ""
	}
	return folded[:at[0]], strings.ReplaceAll(folded[at[0]:], "-", "")
}
