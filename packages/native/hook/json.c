/* Finding a field in a JSON text, without understanding the rest of it. What is malformed is as if it were not there. */
#include <stdlib.h>
#include <string.h>

#include "hook.h"

#define MAX_DEPTH 200

static const char *skip_space(const char *at, const char *end)
{
  while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
    at++;
  return at;
}

/* Behind the closing quote; NULL where there is none. */
static const char *skip_string(const char *at, const char *end)
{
  for (at++; at < end; at++) {
    if (*at == '\\')
      at++;
    else if (*at == '"')
      return at + 1;
  }
  return NULL;
}

/* Behind a value of any kind. Brackets are counted, not matched: which of them closes what does not matter to what is skipped. */
static const char *skip_value(const char *at, const char *end)
{
  int depth = 0;
  for (at = skip_space(at, end); at < end;) {
    if (*at == '"') {
      if (!(at = skip_string(at, end)))
        return NULL;
    } else if (*at == '{' || *at == '[') {
      if (++depth > MAX_DEPTH)
        return NULL;
      at++;
    } else if (*at == '}' || *at == ']') {
      if (depth == 0)
        return at;
      depth--;
      at++;
    } else if (depth == 0 && *at == ',') {
      return at;
    } else {
      at++;
      continue;
    }
    if (depth == 0)
      return at;
  }
  return depth == 0 ? at : NULL;
}

/* The next `"name": value` of an object, from behind "{" or ",". */
static bool next_member(const char **at, const char *end, struct json *name, struct json *value)
{
  const char *from = skip_space(*at, end), *to;
  if (from >= end || *from != '"' || !(to = skip_string(from, end)))
    return false;
  *name = (struct json){from, to};
  to = skip_space(to, end);
  if (to >= end || *to != ':')
    return false;
  value->at = skip_space(to + 1, end);
  if (!(value->end = skip_value(value->at, end)))
    return false;
  *at = skip_space(value->end, end);
  return true;
}

bool json_field(struct json of, const char *name, struct json *value)
{
  const char *at = skip_space(of.at, of.end);
  if (at >= of.end || *at != '{')
    return false;
  struct json key, found;
  bool there = false;
  for (at++; next_member(&at, of.end, &key, &found); at++) {
    char *text = json_string(key);
    if (text && strcmp(text, name) == 0) {
      *value = found; /* of several the last counts */
      there = true;
    }
    free(text);
    if (at >= of.end || *at != ',')
      break;
  }
  return there;
}

/* Four hexadecimal digits; negative: not. */
static long code_unit(const char *at, const char *end)
{
  long code = 0;
  if (end - at < 4)
    return -1;
  for (int i = 0; i < 4; i++) {
    const char *digits = "0123456789abcdef", *digit = memchr(digits, at[i] | 0x20, 16);
    if (!digit)
      return -1;
    code = code * 16 + (digit - digits);
  }
  return code;
}

static char *put_utf8(char *out, long code)
{
  if (code < 0x80) {
    *out++ = (char)code;
  } else if (code < 0x800) {
    *out++ = (char)(0xc0 | code >> 6);
    *out++ = (char)(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    *out++ = (char)(0xe0 | code >> 12);
    *out++ = (char)(0x80 | (code >> 6 & 0x3f));
    *out++ = (char)(0x80 | (code & 0x3f));
  } else {
    *out++ = (char)(0xf0 | code >> 18);
    *out++ = (char)(0x80 | (code >> 12 & 0x3f));
    *out++ = (char)(0x80 | (code >> 6 & 0x3f));
    *out++ = (char)(0x80 | (code & 0x3f));
  }
  return out;
}

/* Behind "\u"; with its low half where it is a pair. Zero: malformed, or NUL. */
static long unicode(const char **at, const char *end)
{
  long code = code_unit(*at, end);
  if (code < 0)
    return 0;
  *at += 4;
  if (code < 0xd800 || code > 0xdbff || end - *at < 6 || (*at)[0] != '\\' || (*at)[1] != 'u')
    return code;
  long low = code_unit(*at + 2, end);
  if (low < 0xdc00 || low > 0xdfff)
    return code;
  *at += 6;
  return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
}

char *json_string(struct json of)
{
  const char *at = skip_space(of.at, of.end), *end = at < of.end && *at == '"' ? skip_string(at, of.end) : NULL;
  char *text = end ? malloc((size_t)(end - at)) : NULL, *out = text;
  if (!text)
    return NULL;
  const char *names = "bfnrt", *values = "\b\f\n\r\t";
  for (at++, end--; at < end;) {
    if (*at != '\\') {
      *out++ = *at++;
      continue;
    }
    const char *escape = memchr(names, at[1], 5);
    long code = (unsigned char)at[1];
    at += 2;
    if (escape)
      code = (unsigned char)values[escape - names];
    else if (code == 'u')
      code = unicode(&at, end);
    if (code == 0) {
      free(text);
      return NULL;
    }
    out = put_utf8(out, code);
  }
  *out = 0;
  if (strlen(text) != (size_t)(out - text)) {
    free(text);
    return NULL;
  }
  return text;
}

bool json_has_number(struct json of, long number)
{
  const char *at = skip_space(of.at, of.end);
  if (at >= of.end || *at != '[')
    return false;
  for (at++; (at = skip_space(at, of.end)) < of.end && *at != ']'; at++) {
    char *after;
    if (strtol(at, &after, 10) == number && after > at)
      return true;
    if (!(at = skip_value(at, of.end)) || (at = skip_space(at, of.end)) >= of.end || *at != ',')
      return false;
  }
  return false;
}
