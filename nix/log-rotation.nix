# How logrotate treats a log of ours. By rename: who writes to it opens it anew, and not a line is lost.
days: {
  frequency = "daily";
  rotate = days;
  compress = true;
  delaycompress = true;
  missingok = true;
  notifempty = true;
  create = "0644";
}
